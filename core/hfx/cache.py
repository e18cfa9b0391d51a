"""The cache of prepared data: folders named by the hash of what decides them, built once, found by whoever comes next.

A folder is built under a lock beside its place and renamed when it is whole, so a killed build leaves nothing that
could be mistaken for one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from hfx.errors import StorageError
from hfx.workers import refuse_in_a_beginning_worker

_KEY = re.compile(r"[0-9a-f]{32}")
"""The name of a prepared folder: what else lies where `HFX_CACHE` points is somebody's own."""


def cache_root() -> Path:
    """Return the folder of prepared data: `HFX_CACHE`, else `hfx` in the user's cache folder."""
    if given := os.environ.get("HFX_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hfx"


def content_key(*parts: Any) -> str:
    """Return a hash of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def cached(folder: Path, build: Callable[[Path], object]) -> Path:
    """Return the folder, built once: whoever comes second waits and finds it.

    Raises:
        StorageError: the cache cannot be written.
    """
    if folder.is_dir():
        os.utime(folder)  # what was used last is pruned last
        return folder
    refuse_in_a_beginning_worker()
    partial = folder.with_suffix(".partial")
    with _locked(folder):
        if folder.is_dir():
            return folder
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            build(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        partial.replace(folder)
    return folder


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Read what lies in a folder of the cache, none of it pickled.

    Raises:
        StorageError: it is not what hfx writes.
    """
    try:
        yield
    except StorageError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, NotImplementedError, RecursionError) as error:
        cause = next(iter(str(error).splitlines()), type(error).__name__)
        raise StorageError(
            f"the prepared data in '{folder}' is damaged ({cause}); remove that folder, and it is made anew"
        ) from error


def _locked(folder: Path) -> FileLock:
    lock = FileLock(f"{folder}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise StorageError(
            f"cannot write prepared data to '{folder.parent}': {error.strerror}; set HFX_CACHE to another folder"
        ) from error
    lock.release()
    return lock


@dataclass(frozen=True)
class Entry:
    """One prepared folder: its stage (`rows`, `facts`, `table`), bytes, and last use in seconds since 1970."""

    path: Path
    stage: str
    size: int
    used: float


def entries(root: Path) -> list[Entry]:
    """Return what the cache holds, what was used last first."""
    return sorted(_entries(root), key=lambda entry: entry.used, reverse=True)


def _entries(root: Path) -> Iterator[Entry]:
    for folder in root.glob("*/*"):
        if _KEY.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            yield Entry(folder, folder.parent.name, size, folder.stat().st_mtime)


def prune(root: Path, unused_days: float) -> list[Entry]:
    """Remove what was not used for so many days, and what killed builds left; return what was removed.

    A folder that is being built is left alone: its lock is held.
    """
    limit = time.time() - unused_days * 86_400
    removed = [entry for entry in _entries(root) if entry.used <= limit]
    for entry in removed:
        with FileLock(f"{entry.path}.lock"):
            shutil.rmtree(entry.path)
        Path(f"{entry.path}.lock").unlink(missing_ok=True)
    for partial in root.glob("*/*.partial"):
        if not _KEY.fullmatch(partial.stem) or partial.is_symlink():
            continue
        lock = FileLock(f"{partial.with_suffix('')}.lock", timeout=0)
        try:
            lock.acquire()
        except TimeoutError:
            continue
        shutil.rmtree(partial)
        lock.release()
    return removed
