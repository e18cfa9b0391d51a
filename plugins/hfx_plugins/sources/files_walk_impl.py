"""Walking folders and globs: names only, none of them kept as an object."""

from __future__ import annotations

import fnmatch
import glob
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from hfx.errors import DataError
from hfx_plugins.sources.files_list_impl import Names, is_dataset


def folder_names(root: Path) -> tuple[Names, set[bytes]]:
    """Return the names of the files below a folder, and which of them are `save_to_disk` folders.

    Raises:
        DataError: a folder cannot be read.
    """
    names, datasets = Names(), set()
    seen: set[tuple[int, int]] = set()
    waiting = [b""]
    while waiting:
        inside = waiting.pop()
        folder = os.path.join(os.fsencode(root), inside)
        try:
            stat = os.stat(folder)
            if (stat.st_dev, stat.st_ino) in seen:  # a link back
                continue
            if is_dataset(os.fsdecode(folder)):
                datasets.add(inside[:-1])
                names.add(inside[:-1])
                continue
            seen.add((stat.st_dev, stat.st_ino))
            waiting += sorted(_take_folder(folder, inside, names), reverse=True)
        except OSError as error:
            raise _unreadable(os.fsdecode(folder), error) from error
    return names, datasets


def _take_folder(folder: bytes, inside: bytes, names: Names) -> list[bytes]:
    """Take the names of a folder's files, and return its folders."""
    folders: list[bytes] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_folder(entry):
                folders += [] if entry.name.startswith(b".") else [inside + entry.name + b"/"]
            elif not hidden(entry.name):
                names.add(inside + entry.name)
    return folders


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: opening it says so
        return False


def hidden(name: bytes) -> bool:
    """Tell whether a file in a folder is none of its data."""
    # `_SUCCESS` and the like are the marks that Spark leaves beside its files.
    return name.startswith(b".") or (name.startswith(b"_") and b"." not in name)


def _unreadable(folder: str, error: OSError) -> DataError:
    return DataError(f"the folder '{folder}' cannot be read: {error.strerror}; make it readable or leave it out")


def glob_names(pattern: Path) -> tuple[Path, Names, set[bytes]]:
    """Return (the folder before the first wildcard, the names below it, which of them are `save_to_disk` folders)."""
    root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    names, datasets = Names(), set()
    start = len(prefix_of(root))
    for path, is_file, is_folder in _matches(str(pattern)):
        name = os.fsencode(path[start:])
        if is_folder and is_dataset(path):
            datasets.add(name)
        elif is_file and not hidden(os.path.basename(name)):
            names.add(name)
    return root, _outside(names, datasets), datasets


def _outside(names: Names, datasets: set[bytes]) -> Names:
    """Leave out the files of data sets that were found as a whole."""
    if not datasets:
        return names
    left = Names()
    for name in itertools.chain(names.sorted().to_pylist(), datasets):
        if os.path.dirname(name) not in datasets:
            left.add(name)
    return left


def prefix_of(root: Path) -> str:
    """Return what comes before the names below a folder."""
    return "" if root == Path() else os.path.join(root, "")


def _matches(pattern: str) -> Iterator[tuple[str, bool, bool]]:
    """Yield (path, is a file, is a folder) of what `glob.glob` finds, without its lists of whole folders."""
    head, last = os.path.split(pattern)
    if not glob.has_magic(last) or last == "**":
        for path in glob.iglob(pattern, recursive=True):
            yield path, os.path.isfile(path), os.path.isdir(path)
        return
    wanted = re.compile(fnmatch.translate(os.path.normcase(last))).match
    for folder in _folders(head):
        for entry in _entries(folder or "."):
            if wanted(entry.name) and (last.startswith(".") or not entry.name.startswith(".")):
                yield os.path.join(folder, entry.name), _of(entry.is_file), _of(entry.is_dir)


def _folders(pattern: str) -> Iterator[str]:
    if not glob.has_magic(pattern):
        yield pattern
        return
    here = "" if os.path.isabs(pattern) else os.path.join(".", "")
    for folder in glob.iglob(os.path.join(here + pattern, ""), recursive=True):
        yield folder.removeprefix(here)


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise _unreadable(folder, error) from error


def _of(question: object) -> bool:
    try:
        return bool(question())  # type: ignore[operator]
    except OSError:  # a link to itself
        return False
