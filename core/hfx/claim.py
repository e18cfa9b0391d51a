"""The claim on a run directory: one run at a time writes into it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hfx.errors import StorageError

LOCK_FILE = ".lock"
LOGS = "logs"
_PATIENCE = 0.5
"""Seconds to wait for the claim: whoever looks whether a run is alive has it for a moment."""
_HELD = {errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK}
NO_RUN = frozenset({LOCK_FILE, LOGS})
"""What a folder may hold that holds no run: it is there before the run is checked."""


def leave_nothing(output: Path, *, claimed_here: bool = False) -> None:
    """Remove what a start left that never became a run: lock, ranks' logs, and the folders where they are empty then.

    What others put there stays, and so does the folder of a run, or of one that another process is about to begin.
    """
    if not claimed_here and held(output):
        return
    try:
        if {file.name for file in output.iterdir()} - NO_RUN:
            return
    except (FileNotFoundError, NotADirectoryError):  # another machine was faster
        return
    for file in (*(output / LOGS).glob("rank-*.log"), output / LOCK_FILE):
        file.unlink(missing_ok=True)
    for folder in (output / LOGS, output):
        with suppress(OSError):  # it holds something, or another rank removed it
            folder.rmdir()


@contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Hold the run directory, which is made where it is missing; a killed process lets go of it.

    Raises:
        StorageError: another process is training there.
    """
    output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output / LOCK_FILE)
    try:
        lock.acquire(timeout=_PATIENCE, poll_interval=0.02)
    except Timeout:
        raise StorageError(
            f"another process is training in '{output}'; wait for it, or choose another '--output'"
        ) from None
    try:
        yield
    finally:
        lock.release()  # the file stays: removing it could take it from under a process that is just opening it


def held(output: Path) -> bool | None:
    """Return whether a live process holds the run directory; None where that cannot be known.

    It needs no right to write. On a file system that passes locks on, the process may be another machine's.
    """
    import fcntl

    try:
        descriptor = os.open(output / LOCK_FILE, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return True if error.errno in _HELD else None
    finally:
        os.close(descriptor)
    return False
