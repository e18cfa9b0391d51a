"""Finding files behind a path, folder or glob, and telling their formats."""

from __future__ import annotations

import glob
import itertools
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import xxhash

from hfx.errors import DataError, nearest
from hfx_plugins.sources.files_open_impl import opened

TEXT = """
    txt text md rst markdown adoc tex log py pyi c h cc cpp cxx hpp cu java kt scala js mjs jsx ts tsx go rs rb
    php pl lua r jl swift m sh bash zsh sql html htm xml css scss yaml yml toml ini cfg conf proto cmake hs ml ex exs
    erl
    clj lisp el vim dart cs fs v sv vhd f90 asm s diff patch srt vtt
"""
FORMATS = dict.fromkeys(TEXT.split(), "text") | {
    "jsonl": "jsonl", "ndjson": "jsonl", "json": "json", "csv": "csv", "tsv": "tsv",
    "parquet": "parquet", "pq": "parquet", "arrow": "arrow", "ipc": "arrow", "feather": "arrow",
}  # fmt: skip
COMPRESSED = ("gz", "zst")
KNOWN = (
    ".txt .md .py (and other source text) .jsonl .json .csv .tsv .parquet .arrow .feather, each also with .gz or .zst"
)


@dataclass(frozen=True, slots=True)
class File:
    """One file (or `save_to_disk` folder) to read: the source's name, where it is, and its format."""

    source: str
    path: str
    relative: str
    format: str

    def parts(self) -> list[str]:
        """Return the files that hold its bytes, in the order in which they are read."""
        return _dataset_parts(Path(self.path)) if self.format == "dataset" else [self.path]

    def size(self) -> int:
        """Return its size on disk in bytes."""
        return sum(os.path.getsize(part) for part in self.parts())

    def hash(self) -> str:
        """Return the hash of its content."""
        return ":".join(_content_hash(part, *_identity(part)) for part in self.parts())


def find(source: str, data: str, override: str | None) -> list[File]:
    """Return the files behind a path, folder or glob, sorted.

    Raises:
        DataError: nothing is there, or a file's format is not known.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        root, paths = path, _folder(path)
    elif path.exists():
        root, paths = path.parent, [path]
    elif glob.has_magic(str(path)):
        root, paths = _glob(path)
    else:
        raise DataError(f"'{data}' does not exist;{_neighbour(path)}")
    if not paths:
        raise DataError(f"'{data}' holds no file; name a file, a folder or a glob that does")
    files = [File(source, str(p), _relative(p, root), override or _format(p)) for p in paths]
    _refuse_unknown(data, files)
    for file in files:
        _try_to_open(file)
    return files


def _relative(path: Path, root: Path) -> str:
    return path.name if path == root else path.relative_to(root).as_posix()


def _neighbour(path: Path) -> str:
    folder = path.parent
    while not folder.is_dir():
        path, folder = folder, folder.parent
    found = nearest(path.name, sorted(os.listdir(folder)))
    return found or f" there is nothing of that name in '{folder}'"


def _hidden(name: str) -> bool:
    # `_SUCCESS` and the like are the marks that Spark leaves beside its files.
    return name.startswith(".") or (name.startswith("_") and "." not in name)


def _folder(root: Path) -> list[Path]:
    if _is_dataset(root):
        return [root]
    if (root / "dataset_dict.json").exists():
        splits = json.loads((root / "dataset_dict.json").read_text())["splits"]
        raise DataError(f"'{root}' holds several splits; name one of them: {', '.join(str(root / s) for s in splits)}")
    found: list[Path] = []
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen or _is_dataset(Path(folder)):
            found += [] if real in seen else [Path(folder)]
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(folder, name) for name in names if not _hidden(name)]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _glob(pattern: Path) -> tuple[Path, list[Path]]:
    plain = itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts)
    root = Path(*plain)
    found = [Path(name) for name in glob.glob(str(pattern), recursive=True)]
    datasets = [path for path in found if path.is_dir() and _is_dataset(path)]
    inside = {part for path in datasets for part in path.iterdir()}
    files = [path for path in found if path.is_file() and not _hidden(path.name) and path not in inside]
    return root, sorted(files + datasets, key=lambda path: path.as_posix())


def _is_dataset(folder: Path) -> bool:
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def _dataset_parts(folder: Path) -> list[str]:
    state = json.loads((folder / "state.json").read_text())
    return [str(folder / entry["filename"]) for entry in state["_data_files"]]


def _format(path: Path) -> str:
    if path.is_dir():
        return "dataset"
    suffixes = [suffix[1:].lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    kind = FORMATS.get(suffixes[-1], "") if suffixes else ""
    return "jsonl" if kind == "json" and _holds_lines(path) else kind


def _holds_lines(path: Path) -> bool:
    """Tell whether a `.json` file is JSON Lines, as many are: its first line is a whole object."""
    with opened(str(path)) as stream:
        first = stream.readline(1 << 20).strip()
    try:
        return isinstance(json.loads(first), dict)
    except ValueError:
        return False


def _refuse_unknown(data: str, files: list[File]) -> None:
    unknown = [file.path for file in files if not file.format]
    if not unknown:
        return
    more = f" (and {len(unknown) - 1} more under '{data}')" if len(unknown) > 1 else ""
    raise DataError(
        f"the format of '{unknown[0]}'{more} is not known by its suffix; known are {KNOWN};"
        " name the files with a glob, or give --files.format"
    )


def _try_to_open(file: File) -> None:
    for part in file.parts():
        if file.format in ("parquet", "arrow") and part.endswith((".gz", ".zst")):
            raise DataError(f"'{part}' is compressed twice over; unpack it ({file.format} compresses inside)")
        with opened(part):
            pass


def _identity(path: str) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=65536)
def _content_hash(path: str, size: int, mtime: int) -> str:
    """Hash a file's bytes, once in a process as long as size and time stay (they are no part of the hash)."""
    digest = xxhash.xxh3_128()
    with open(path, "rb", buffering=0) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
