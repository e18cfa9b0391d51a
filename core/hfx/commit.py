"""The commit of a folder: a manifest with the sizes and hashes of its files, which appears last and is on disk then."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import xxhash

from hfx.errors import StorageError

FORMAT = 2
MANIFEST = "MANIFEST.json"
_MOST_JSON = 256 * 2**20
"""Bytes of JSON that are read at most: a damaged length must not fill the memory."""
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}
"""How some file systems say that they cannot sync a folder."""


@dataclass(frozen=True)
class FileSum:
    """What a file holds: its size in bytes, and its hash in hexadecimal.

    The hash finds damage, as any would. It proves nothing against a forger, who would write another manifest; SHA-256,
    measured, cost a third of the speed of a save on a busy machine.
    """

    size: int
    xxh3_128: str

    @classmethod
    def of(cls, content: bytes) -> FileSum:
        """Return the sum of a content."""
        return cls(len(content), xxhash.xxh3_128_hexdigest(content))


@dataclass(frozen=True)
class Manifest:
    """What a committed folder holds: its files, and the tensors in them with their full shape and dtype."""

    files: dict[str, FileSum]
    tensors: dict[str, tuple[tuple[int, ...], str]]

    def write(self, folder: Path) -> None:
        """Commit the folder, whose files are on disk already."""
        write_durably(folder / MANIFEST, self._text())

    def _text(self) -> str:
        body = {
            "format": FORMAT,
            "files": {name: {"size": file.size, "xxh3_128": file.xxh3_128} for name, file in self.files.items()},
            "tensors": {name: [list(shape), dtype] for name, (shape, dtype) in self.tensors.items()},
        }
        return json.dumps(body | {"xxh3_128": xxhash.xxh3_128_hexdigest(json.dumps(body).encode())})

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Return the manifest of a folder.

        Raises:
            StorageError: it is missing or is not what was written.
        """
        path = folder / MANIFEST
        try:
            if not path.is_file():
                raise StorageError(f"'{folder}' is no checkpoint: it has no {MANIFEST}")
            _stay_inside(path)
            text = read_text(path)
            body = json.loads(text)
            if body["format"] != FORMAT:
                raise ValueError(f"it is of format {body['format']}, and this version of hfx reads format {FORMAT}")
            found = cls(
                {_plain(name): FileSum(int(one["size"]), str(one["xxh3_128"])) for name, one in body["files"].items()},
                {name: (tuple(map(int, shape)), str(dtype)) for name, (shape, dtype) in body["tensors"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StorageError(f"'{path}' cannot be read: {error}; the checkpoint is damaged") from error
        # Written again it is the same text, or it is not what was written: that covers what JSON lets pass, too.
        if text != found._text():
            raise StorageError(f"'{path}' differs from what was written; the checkpoint is damaged")
        return found

    def check_sizes(self, folder: Path) -> None:
        """Look at every file without reading it.

        Raises:
            StorageError: one is missing, has another size, or lies elsewhere.
        """
        for name, expected in self.files.items():
            file = folder / name
            try:
                if not file.is_file() or file.stat().st_size != expected.size:
                    raise StorageError(f"'{file}' is missing or cut short; the checkpoint is damaged")
                _stay_inside(file)
            except OSError as error:
                raise StorageError(f"'{file}' cannot be read: {error}; the checkpoint is damaged") from error

    def check(self, folder: Path) -> None:
        """Read every file, some at a time, and compare it with what was written.

        Raises:
            StorageError: one is not what was written.
        """
        self.check_sizes(folder)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for _ in pool.map(lambda name: self._check_content(folder / name), self.files):
                pass

    def _check_content(self, file: Path) -> None:
        try:
            with file.open("rb") as handle:
                found = hashlib.file_digest(handle, xxhash.xxh3_128).hexdigest()
        except OSError as error:
            raise StorageError(f"'{file}' cannot be read: {error}; the checkpoint is damaged") from error
        if found != self.files[file.name].xxh3_128:
            raise StorageError(f"'{file}' differs from what was written; the checkpoint is damaged")


def _stay_inside(file: Path) -> None:
    if file.is_symlink() and file.resolve().parent != file.parent.resolve():
        raise StorageError(f"'{file}' is a link out of its folder; the checkpoint is damaged")


def _plain(name: str) -> str:
    if Path(name).name != name:
        raise ValueError(f"'{name}' is no file's name")
    return name


def read_text(path: Path) -> str:
    """Return a file of JSON; one that is too long for that is not read.

    Raises:
        ValueError: it is too long, or no UTF-8.
    """
    with path.open("rb") as handle:
        content = handle.read(_MOST_JSON + 1)
    if len(content) > _MOST_JSON:
        raise ValueError(f"it is longer than {_MOST_JSON} bytes")
    return content.decode("utf-8")


def write_durably(path: Path, text: str) -> None:
    """Write a file that is whole under its name or not there, and on disk once this returns."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(path)
    sync_folders([path.parent])


def sync_folders(folders: Iterable[Path]) -> None:
    """Bring the names in some folders to disk."""
    for folder in folders:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NO_FOLDER_SYNC:
                raise
        finally:
            os.close(descriptor)
