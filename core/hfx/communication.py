"""What collectives send and how long they take, and which rank the others wait for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import Variable

if TYPE_CHECKING:
    from torch import Tensor


class Interval:
    """When a collective was called, and when it was done; None while it is not."""

    __slots__ = ("end", "start")

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.end: float | None = None

    def done(self, _: object = None) -> None:
        """Take note that it is done."""
        self.end = time.perf_counter()


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a rank's collectives did in a stretch of time."""

    bytes: int
    """What this rank gave to them."""
    seconds: float
    """In which at least one was under way."""
    waited: float
    """In which the thread that trains was blocked by them."""


class Meter:
    """Counts the collectives of one rank, and the time in which the thread that made the meter was blocked by them."""

    def __init__(self) -> None:
        self.bytes = 0
        self.waited = 0.0
        self._intervals: list[Interval] = []
        self._thread = threading.get_ident()
        self._since = (0, 0.0, time.perf_counter())

    def called(self, interval: Interval, size: int) -> None:
        """Count a collective that was given so many bytes."""
        self.bytes += size
        self._intervals.append(interval)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time in the context as blocked."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if threading.get_ident() == self._thread:
                self.waited += time.perf_counter() - start

    @contextmanager
    def backward(self, loss: Tensor) -> Iterator[None]:
        """Count as blocked what collectives take of a backward pass from `loss`, `()`, once it has computed all.

        For engines that call them in the pass and wait at its end where Python does not see it, as DDP does.
        """
        began: list[tuple[float, float]] = []

        def computed() -> None:
            began.append((time.perf_counter(), self.waited))

        def first(_: Tensor) -> None:
            # Called first, so that it is at the head of the queue: before the engine's own, which waits.
            Variable._execution_engine.queue_callback(computed)

        hook = loss.register_hook(first)  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            hook.remove()
            if began:
                start, waited = began[0]
                under_way = covered(self._intervals, start, time.perf_counter())
                self.waited += max(0.0, under_way - (self.waited - waited))

    def start(self) -> None:
        """Begin a stretch."""
        now = time.perf_counter()
        self._intervals = [interval for interval in self._intervals if interval.end is None]
        self._since = (self.bytes, self.waited, now)

    def read(self) -> Traffic:
        """Return what was done since the stretch began."""
        size, waited, start = self._since
        return Traffic(self.bytes - size, covered(self._intervals, start, time.perf_counter()), self.waited - waited)


def covered(intervals: list[Interval], start: float, end: float) -> float:
    """Return the seconds between two times in which at least one of the intervals lies, which begin in this order."""
    seconds, at = 0.0, start
    for interval in intervals:
        until = min(end, interval.end if interval.end is not None else end)
        seconds += max(0.0, until - max(at, interval.start))
        at = max(at, until)
    return seconds


class Pace:
    """Compares the ranks' seconds at work from sum to sum: the most of them is what the others waited for.

    A rank's row of the sum that each step makes has its seconds since the last one, without those in which it was
    blocked by collectives, nor those of evaluations and checkpoints.
    """

    def __init__(self, meter: Meter, rank: int, size: int) -> None:
        self.meter, self._rank, self._size = meter, rank, size
        self._seconds = 0.0
        self._began: tuple[float, float] | None = None
        self._last: dict[str, Any] = {}

    def resume(self) -> None:
        """Count from here."""
        self._began = self._began or (time.perf_counter(), self.meter.waited)

    def begin(self) -> None:
        """Begin a step, whose collectives are counted from here."""
        self.resume()
        self.meter.start()

    def pause(self) -> None:
        """Leave out what follows."""
        if self._began:
            start, waited = self._began
            self._seconds += time.perf_counter() - start - (self.meter.waited - waited)
            self._began = None

    def row(self) -> Tensor:
        """Return this rank's seconds at its place among zeros, `(ranks,)`, and begin anew."""
        self.pause()
        row = torch.zeros(self._size, dtype=torch.float64)
        row[self._rank] = self._seconds
        self._seconds = 0.0
        return row

    def compare(self, rows: Tensor) -> None:
        """Take the sum of all ranks' rows, `(ranks,)`, from the end of which the next is counted."""
        self.resume()
        seconds = rows.tolist()
        most = max(range(self._size), key=seconds.__getitem__)
        others = [taken for rank, taken in enumerate(seconds) if rank != most]
        self._last = {"straggler": most, "straggler_seconds": seconds[most] - median(others)}

    def figures(self) -> dict[str, Any]:
        """Return the figures of the step that ends."""
        traffic = self.meter.read()
        return {
            "comm_bytes": traffic.bytes,
            "comm_seconds": traffic.seconds,
            "comm_wait_seconds": traffic.waited,
            "comm_bytes_per_second": traffic.bytes / traffic.seconds if traffic.seconds else None,
        } | self._last
