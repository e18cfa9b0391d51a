"""Reading ahead: one thread that fills a bounded buffer with rows while the run computes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeAlias

from hfx import BadRow, Row

Sized: TypeAlias = "tuple[Row | BadRow, int]"
"""A row and about how many bytes it has."""
_BATCH_ROWS, _BATCH_BYTES, _BATCH_SECONDS = 500, 1 << 18, 0.2


class Ahead:
    """Rows from some row on, in order; a thread reads them, and stops where the buffer is full."""

    def __init__(
        self, start: int, rows: Callable[[], Iterator[Sized]], most: int, closed: threading.Event,
        abort: Callable[[], None],
    ) -> None:  # fmt: skip
        self.next = start
        """The number of the row that comes next."""
        self.last: Row | BadRow | None = None
        """The row before it: whoever reads a block has to look at the first row behind it."""
        self._rows, self._most, self._closed, self._abort = rows, most, closed, abort
        self._batch = min(_BATCH_BYTES, most // 4)
        self._batches: deque[tuple[list[Row | BadRow], int]] = deque()
        self._held: deque[Row | BadRow] = deque()
        self._bytes, self._ended = 0, False
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._fill, name="hfx-stream", daemon=True)
        self._thread.start()

    @property
    def usable(self) -> bool:
        """True as long as it can go on where it is."""
        return self._failure is None and not self._closed.is_set()

    def rows(self) -> Iterator[Row | BadRow]:
        """Yield the rows that are left; what went wrong with the thread is raised here."""
        while self._held or self._more():
            row = self._held.popleft()
            self.next, self.last = self.next + 1, row
            yield row

    def _more(self) -> bool:
        with self._changed:
            while not self._batches and not self._ended:
                self._changed.wait()
            if self._batches:
                rows, size = self._batches.popleft()
                self._held.extend(rows)
                self._bytes -= size
                self._changed.notify_all()
                return True
        if self._failure is not None:
            raise self._failure
        return False

    def close(self) -> None:
        """Stop the thread, also where it waits for the network."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        self._abort()
        self._thread.join(timeout=2)

    # ── the thread ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _fill(self) -> None:
        try:
            self._read()
        except BaseException as error:  # noqa: BLE001  raised again where the rows are read
            self._failure = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _read(self) -> None:
        batch: list[Row | BadRow] = []
        size, since = 0, time.monotonic()
        try:
            for row, bytes_of_row in self._rows():
                batch.append(row)
                size += bytes_of_row
                now = time.monotonic()
                if len(batch) >= _BATCH_ROWS or size >= self._batch or now - since > _BATCH_SECONDS:
                    if not self._push(batch, size):
                        return
                    batch, size, since = [], 0, time.monotonic()
        finally:
            if batch:
                self._push(batch, size)

    def _push(self, batch: list[Row | BadRow], size: int) -> bool:
        with self._changed:
            while self._bytes >= self._most and not self._closed.is_set():
                self._changed.wait()
            self._batches.append((batch, size))
            self._bytes += size
            self._changed.notify_all()
        return not self._closed.is_set()
