"""The claim on a run directory: one run at a time writes into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hfx.errors import StorageError

LOCK_FILE = ".lock"
LOGS = "logs"
NO_RUN = frozenset({LOCK_FILE, LOGS})
"""What a folder may hold that holds no run: it is there before the run is checked."""


@contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Hold the run directory, which is made where it is missing; a killed process lets go of it.

    Raises:
        StorageError: another process is training there.
    """
    output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise StorageError(
            f"another process is training in '{output}'; wait for it, or choose another '--output'"
        ) from None
    try:
        yield
    finally:
        lock.release()  # the file stays: removing it could take it from under a process that is just opening it
