"""What a user sees while data is prepared: nothing for two seconds, then a bar; a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Item = TypeVar("Item")
PATIENCE = 2.0
"""Seconds without a sign."""
_LINE_EVERY = 30.0


def counted(items: Iterable[Item], what: str, total: int | None = None, step: int = 1) -> Iterator[Item]:
    """Yield the items and show how many rows went by: `step` for each of them, of `total` where that is known."""
    sign = _Sign(what, total)
    try:
        for number, item in enumerate(items, start=1):
            yield item
            sign.update(min(number * step, total or number * step))
    finally:
        sign.close()


class _Sign:
    """The bar or the lines of one piece of work."""

    def __init__(self, what: str, total: int | None) -> None:
        self._what, self._total = what, total
        self._due = time.monotonic() + PATIENCE
        self._bar: tuple[Progress, TaskID] | None = None

    def update(self, done: int) -> None:
        """Show how far the work is."""
        if self._bar:
            self._bar[0].update(self._bar[1], completed=done)
        elif time.monotonic() >= self._due:
            self._show(done)

    def _show(self, done: int) -> None:
        if not sys.stderr.isatty():
            of = f" of {self._total:,}" if self._total else ""
            print(f"hfx: {self._what}: {done:,}{of} rows", file=sys.stderr, flush=True)
            self._due = time.monotonic() + _LINE_EVERY
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        progress = Progress(*columns, console=Console(stderr=True), transient=True)
        progress.start()
        self._bar = progress, progress.add_task(self._what, total=self._total, completed=done)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar:
            self._bar[0].stop()
