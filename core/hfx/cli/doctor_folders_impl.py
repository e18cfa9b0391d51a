"""The folders a run writes to: whether they can be written, how fast, and how much room is left."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hfx.cli.doctor_line import Found

MIB = 2**20
WRITTEN = 64 * MIB
_CHUNK = 8 * MIB
_LONGEST = 2.0
"""Seconds to write at most."""
_SLOW, _LITTLE = 30 * MIB, 2**30
"""Bytes a second and bytes below which a line warns."""


def check_folder() -> Iterator[Found]:
    """Tell whether the current folder can be written."""
    here = Path.cwd()
    if reason := _refused(here):
        yield "wrong", f"the current folder '{here}' cannot be written: {reason}", "go to another, or give '--output'"
    else:
        yield "ok", f"the current folder '{here}' can be written"


def check_runs() -> Iterator[Found]:
    """Tell how a run directory can be written: in `runs`, or in the current folder where that is to be made."""
    runs = Path("runs")
    folder = runs if os.path.lexists(runs) else Path.cwd()
    yield _disk(folder, "choose another disk with '--output'")


def check_cache() -> Iterator[Found]:
    """Tell how the cache can be written, or the folder in which it is to be made."""
    from hfx.cache import cache_root

    yield _disk(cache_root(), "set HFX_CACHE to another folder")


def _disk(wanted: Path, otherwise: str) -> Found:
    folder = next(place for place in (wanted, *wanted.absolute().parents) if os.path.lexists(place))
    if reason := _refused(folder):
        beginning = f"'{wanted}' cannot be written" if folder == wanted else f"'{wanted}' cannot be made in '{folder}'"
        return "wrong", f"{beginning}: {reason}", otherwise
    try:
        speed = _speed(folder, min(WRITTEN, shutil.disk_usage(folder).free))
    except OSError as error:
        return "wrong", f"'{wanted}' cannot be written: {error.strerror}", f"free space, or {otherwise}"
    free = shutil.disk_usage(folder).free
    words = f"'{wanted}': {speed / MIB:,.0f} MiB/s written and synced, {free / 2**30:,.1f} GiB free"
    if free < WRITTEN:
        return "wrong", f"'{wanted}': {free / MIB:,.0f} MiB are free", f"free space, or {otherwise}"
    if free < _LITTLE:
        return "warning", words, f"a checkpoint is three times the model; free space, or {otherwise}"
    if speed < _SLOW:
        return "warning", words, f"checkpoints will be waited for; {otherwise}"
    return "ok", words


def _refused(folder: Path) -> str:
    """Return why no file can be made in a folder, or nothing; the file has no name, so none is left."""
    if not folder.is_dir():
        return "it is no folder" if folder.exists() else "it is a link to nothing"
    try:
        tempfile.TemporaryFile(dir=folder, prefix=".hfx-doctor-").close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _speed(folder: Path, size: int) -> float:
    """Return bytes a second of writing with a sync after each chunk, what no disk can compress away."""
    chunk, written = os.urandom(_CHUNK), 0
    began = time.perf_counter()
    with tempfile.TemporaryFile(dir=folder, prefix=".hfx-doctor-", buffering=0) as file:
        while written < size and time.perf_counter() - began < _LONGEST:
            written += file.write(chunk[: size - written])
            os.fsync(file.fileno())
    return written / max(1e-9, time.perf_counter() - began)
