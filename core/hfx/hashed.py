"""A file that is hashed while it is written, by a thread: both release the interpreter's lock."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO

import xxhash

from hfx.commit import FileSum

_PIECE = 8 * 2**20
_VIEWS = 512
"""Pieces of memory that one call of the operating system takes; it allows 1,024."""
_BEHIND = 256 * 2**20
"""Bytes that hashing may be behind writing: copies of tensors of a device live that long."""


class Hashed:
    """A file that a thread hashes while it is written."""

    def __init__(self, file: FileIO) -> None:
        self._file, self._digest, self._size = file, xxhash.xxh3_128(), 0
        self._views: list[memoryview] = []
        self._gathered = 0
        self._pending: deque[tuple[Future[None], int]] = deque()
        self._behind = 0
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Hashed:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def write(self, content: memoryview) -> None:
        """Write bytes, which stay as they are until `sum` returns."""
        for at in range(0, len(content), _PIECE):
            piece = content[at : at + _PIECE]
            self._views.append(piece)
            self._gathered += len(piece)
            if self._gathered >= _PIECE or len(self._views) == _VIEWS:
                self.flush()

    def flush(self) -> None:
        """Hand everything to the operating system."""
        views, size, self._views, self._gathered = self._views, self._gathered, [], 0
        self._pending.append((self._pool.submit(self._hash, views), size))
        self._behind += size
        self._size += size
        written = os.writev(self._file.fileno(), views) if views else 0
        if written < size:
            self._write_rest(b"".join(views)[written:])
        while self._pending and (self._behind > _BEHIND or self._pending[0][0].done()):
            self._catch_up()

    def _hash(self, views: list[memoryview]) -> None:
        for view in views:
            self._digest.update(view)

    def _write_rest(self, content: bytes) -> None:
        while content:
            content = content[self._file.write(content) :]

    def _catch_up(self) -> None:
        pending, size = self._pending.popleft()
        pending.result()
        self._behind -= size

    def sum(self) -> FileSum:
        """Wait for the thread, and return what was written."""
        while self._pending:
            self._catch_up()
        return FileSum(self._size, self._digest.hexdigest())
