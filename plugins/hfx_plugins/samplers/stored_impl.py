"""Arrays that a sampler computes once and then maps from the cache: every rank of a machine reads the same file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from hfx.errors import StorageError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray


def folder_of(cache: Path, *parts: Any) -> Path:
    """Return the folder for arrays that these JSON values decide."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return cache / "order" / digest[:32]


def index_type(examples: int) -> DTypeLike:
    """Return the type that holds the indices of a table: half the disk where the table is not enormous."""
    return np.uint32 if examples < 2**32 else np.int64


def stored(
    folder: Path, name: str, size: int, dtype: DTypeLike, fill: Callable[[NDArray[Any]], None], keep: int = 1_000
) -> NDArray[Any]:
    """Return the array `(size,)` of this name, mapped from its file, which `fill` writes if nobody did so before.

    Of the folder's arrays those that were made last are kept: a process that still reads another keeps its file open.

    Raises:
        StorageError: the cache cannot be written.
    """
    path = folder / f"{name}.npy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            if not path.exists():
                _write(path, size, dtype, fill)
                _forget(folder, path, keep)
            found: NDArray[Any] = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except OSError as error:
        raise StorageError(
            f"cannot write the order of samples to '{folder.parent}': {error.strerror}; set HFX_CACHE to another folder"
        ) from error
    return found


def _write(path: Path, size: int, dtype: DTypeLike, fill: Callable[[NDArray[Any]], None]) -> None:
    partial = path.with_suffix(".partial")
    try:
        # A mapped file has holes until it is written to, and a full disk then kills the process: take the room first.
        np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=(size,)).flush()
        with partial.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, partial.stat().st_size))
        array = np.load(partial, mmap_mode="r+", allow_pickle=False)
        fill(array)
        array.flush()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _forget(folder: Path, newest: Path, keep: int) -> None:
    others = [path for path in folder.glob("*.npy") if path != newest]
    for path in sorted(others, key=lambda path: path.stat().st_mtime_ns, reverse=True)[keep - 1 :]:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
