"""Finding files behind a path, folder or glob, and telling their formats."""

from __future__ import annotations

import errno
import glob
import json
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from hfx.errors import DataError, nearest
from hfx_plugins.sources.files_list_impl import FileList, codes, decoded, is_dataset
from hfx_plugins.sources.files_open_impl import Damaged, opened, unreadable
from hfx_plugins.sources.files_walk_impl import folder_names, glob_names, prefix_of

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


def find(source: str, data: str, override: str | None) -> FileList:
    """Return the files behind a path, folder or glob, sorted.

    Raises:
        DataError: nothing is there, a file's format is not known, or it cannot be opened.
    """
    prefix, names, datasets = _names(data)
    if not names:
        raise DataError(f"'{data}' holds no file; name a file, a folder or a glob that does")
    kinds = codes(override or kind for kind in _formats(prefix, names, datasets, override is not None))
    files = FileList(source, prefix, names, kinds)
    _refuse_unknown(data, files)
    return FileList(
        source, prefix, names, kinds, size=sum(_try_to_open(part, f.format) for f in files for part in f.parts())
    )


def _names(data: str) -> tuple[str, pa.LargeBinaryArray, set[bytes]]:
    """Return (what comes before the names, the names, which of them are `save_to_disk` folders)."""
    path = Path(data).expanduser()
    if path.is_dir() and not is_dataset(path):
        _refuse_splits(path)
        names, datasets = folder_names(path)
        return prefix_of(path), names.sorted(), datasets
    if path.exists():
        name = os.fsencode(path.name)
        # Of what is in Python pyarrow asks pandas what it is, and to import that takes a quarter of a second.
        ends = np.array([0, len(name)], dtype=np.int64)
        names = pa.Array.from_buffers(pa.large_binary(), 1, [None, pa.py_buffer(ends), pa.py_buffer(name)])
        return prefix_of(path.parent), names, {name} if path.is_dir() else set()
    if glob.has_magic(str(path)):
        root, names, datasets = glob_names(path)
        return prefix_of(root), names.sorted(), datasets
    raise DataError(f"'{data}' does not exist;{_neighbour(path)}")


def _neighbour(path: Path) -> str:
    folder = path.parent
    while not folder.is_dir():
        path, folder = folder, folder.parent
    found = nearest(path.name, sorted(os.listdir(folder)))
    return found or f" there is nothing of that name in '{folder}'"


def _refuse_splits(root: Path) -> None:
    try:
        splits = json.loads((root / "dataset_dict.json").read_text())["splits"]
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"'{root / 'dataset_dict.json'}' names no splits ({error!r}); save the data set anew"
        ) from error
    raise DataError(f"'{root}' holds several splits; name one of them: {', '.join(str(root / s) for s in splits)}")


def _formats(prefix: str, names: pa.LargeBinaryArray, datasets: set[bytes], given: bool) -> Iterator[str]:
    for name in decoded(names):
        if given:
            yield ""
        else:
            yield "dataset" if datasets and os.fsencode(name) in datasets else _format(prefix + name)


def _format(path: str) -> str:
    suffixes = os.path.basename(path).lstrip(".").lower().split(".")[1:]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    kind = FORMATS.get(suffixes[-1], "") if suffixes else ""
    return "jsonl" if kind == "json" and _holds_lines(path) else kind


def _holds_lines(path: str) -> bool:
    """Tell whether a `.json` file is JSON Lines, as many are: its first line is a whole object."""
    try:
        with opened(path) as stream:
            first = stream.readline(1 << 20).strip()
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError, Damaged):  # reading names what is wrong
        return False


def _refuse_unknown(data: str, files: FileList) -> None:
    count = files.counts()[""]
    if not count:
        return
    first = next(file.path for file in files if not file.format)
    more = f" (and {count - 1} more under '{data}')" if count > 1 else ""
    raise DataError(
        f"the format of '{first}'{more} is not known by its suffix; known are {KNOWN};"
        " name the files with a glob, or give --files.format"
    )


def _try_to_open(path: str, kind: str) -> int:
    """Return the size of a file that can be read."""
    if path.endswith((".gz", ".zst")) and kind in ("parquet", "arrow"):
        raise DataError(f"'{path}' is compressed twice over; unpack it ({kind} compresses inside)")
    if path.lower().endswith(".zst"):
        with suppress(Damaged), opened(path):  # its package may be missing
            pass
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for its other end
        try:
            found = os.fstat(number)
        finally:
            os.close(number)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"'{path}' is no file but a pipe, socket or device, which cannot be read twice; save it first")
    return found.st_size
