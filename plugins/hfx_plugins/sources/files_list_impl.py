"""A list of files that costs some bytes a file: names in one buffer, a byte for each format."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import xxhash

from hfx.errors import DataError
from hfx_plugins.sources.files_open_impl import unreadable

KINDS = ("", "text", "jsonl", "json", "csv", "tsv", "parquet", "arrow", "dataset")
"""Formats by their code in a list; the first one stands for a suffix that is not known."""
_CODES = {kind: code for code, kind in enumerate(KINDS)}
_CHUNK = 4096
_KNOWN: dict[bytes, str] = {}
"""Hashes computed in this process, by the names, sizes and times of all files of a list."""
_MOST_KNOWN = 64


@dataclass(frozen=True, slots=True)
class File:
    """One file (or `save_to_disk` folder) to read: the source's name, where it is, and its format."""

    source: str
    path: str
    relative: str
    format: str

    def parts(self) -> list[str]:
        """Return the files that hold its bytes, in the order in which they are read."""
        return dataset_parts(Path(self.path)) if self.format == "dataset" else [self.path]


class Names:
    """Collects names without keeping an object for each."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._ends = array("q", [0])

    def add(self, name: bytes) -> None:
        """Take one more name."""
        self._text += name
        self._ends.append(len(self._text))

    def sorted(self) -> pa.LargeBinaryArray:
        """Return the names by their bytes: of UTF-8, that is the order of their characters."""
        import pyarrow.compute as pc

        buffers = [None, pa.py_buffer(self._ends), pa.py_buffer(self._text)]
        names = pa.Array.from_buffers(pa.large_binary(), len(self._ends) - 1, buffers)
        found = names.take(pc.sort_indices(names))
        pa.default_memory_pool().release_unused()
        return found


@dataclass(frozen=True)
class FileList:
    """Files below one folder, in order; iterate it for `File`s, which are made as they are asked for."""

    source: str
    prefix: str
    names: pa.LargeBinaryArray
    formats: bytes
    """The format of each, as its place in `KINDS`."""
    size: int = 0
    """Bytes of all of them when they were found."""

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[File]:
        for relative, code in zip(decoded(self.names), self.formats, strict=True):
            yield File(self.source, (self.prefix + relative) or ".", relative, KINDS[code])

    def counts(self) -> Counter[str]:
        """Return how many files there are of each format."""
        return Counter({kind: count for code, kind in enumerate(KINDS) if (count := self.formats.count(code))})


def decoded(names: pa.LargeBinaryArray) -> Iterator[str]:
    """Yield the names as text."""
    for start in range(0, len(names), _CHUNK):
        yield from map(os.fsdecode, names.slice(start, _CHUNK).to_pylist())


def codes(kinds: Iterable[str]) -> bytes:
    """Return formats as a `FileList` keeps them."""
    return bytes(_CODES[kind] for kind in kinds)


def is_dataset(folder: str | Path) -> bool:
    """Tell whether `save_to_disk` wrote this folder."""
    return os.path.isfile(os.path.join(folder, "state.json")) and os.path.isfile(
        os.path.join(folder, "dataset_info.json")
    )


def dataset_parts(folder: Path) -> list[str]:
    """Return the Arrow files of a `save_to_disk` folder.

    Raises:
        DataError: its `state.json` is damaged.
    """
    try:
        state = json.loads((folder / "state.json").read_text())
        return [str(folder / _inside(entry["filename"])) for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"'{folder / 'state.json'}' does not name the data's files ({error!r}); save the data set anew"
        ) from error


def _inside(name: str) -> str:
    if os.path.isabs(name) or ".." in name.split("/"):
        raise ValueError(f"'{name}' lies outside of the folder")
    return name


def content_hash(lists: Iterable[FileList], how: object) -> str:
    """Return a hash of the files' names, formats, sizes and contents, and of how they are read.

    Contents are read once in a process as long as no size and no time changes; times are no part of the hash.

    Raises:
        DataError: a file cannot be read any more.
    """
    try:
        return _remembered(tuple(lists), how)
    except OSError as error:
        raise unreadable(str(error.filename), error) from error


def _remembered(lists: tuple[FileList, ...], how: object) -> str:
    key = _identity(lists, how)
    if key not in _KNOWN:
        while len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.pop(next(iter(_KNOWN)), None)
        _KNOWN[key] = _hash(lists, how)
    return _KNOWN[key]


def _identity(lists: tuple[FileList, ...], how: object) -> bytes:
    digest = xxhash.xxh3_128(json.dumps([how, os.getcwd()]).encode())
    for files in lists:
        for file in files:
            stats = [os.stat(part) for part in file.parts()]
            times = [(stat.st_size, stat.st_mtime_ns, stat.st_ino) for stat in stats]
            digest.update(repr((file.source, file.path, file.relative, file.format, times)).encode())
    return digest.digest()


def _hash(lists: tuple[FileList, ...], how: object) -> str:
    digest = hashlib.sha256(json.dumps(how).encode())
    for files in lists:
        for file in files:
            parts = [_part_hash(part) for part in file.parts()]
            size, content = sum(size for size, _ in parts), ":".join(found for _, found in parts)
            digest.update(json.dumps([file.source, file.relative, file.format, size, content]).encode())
    return digest.hexdigest()


def _part_hash(path: str) -> tuple[int, str]:
    digest, size = xxhash.xxh3_128(), 0
    with open(path, "rb", buffering=0) as stream:
        # A tiny file is not worth a buffer of a megabyte.
        step = min(os.fstat(stream.fileno()).st_size + 1, 1 << 20)
        while chunk := stream.read(step):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()
