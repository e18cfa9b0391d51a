"""Stages cut into parts that an executor works on, on whatever machines it has, and put together in order.

A part is a folder named by its number, renamed when it is whole: what a failed or interrupted preparation has done is
not done again.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from hfx.errors import DataError
from hfx.outcomes import Outcomes, outcomes_in
from hfx.protocols import Executor, Row, SketchedStep, Step
from hfx.rows import RowReport, RowSet, copy_store, write_store
from hfx.stepping import stepped
from hfx.workers import in_order


class _Work(Protocol):
    def __call__(self, rows: Iterator[Row], at: Path) -> None:
        """Write what is made of some rows into an empty folder."""


def _do_part(rows: RowSet, work: _Work, number: int, folder: Path, index: int) -> None:
    done = folder / f"{index:05d}"
    if done.is_dir():
        return
    unfinished = done.with_suffix(".partial")
    if unfinished.is_dir():
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)
    size = len(rows)
    work(rows.between(size * index // number, size * (index + 1) // number), unfinished)
    unfinished.replace(done)


@contextmanager
def parts_of(rows: RowSet, work: _Work, executor: Executor, folder: Path) -> Iterator[list[Path]]:
    """Yield the folders of all parts, in order; they are removed when what is made of them is whole.

    Raises:
        DataError: the executor returned before a part was done.
    """
    number = max(1, min(executor.tasks, len(rows)))
    folder = folder.with_name(f"{folder.name}-{number}")
    folder.mkdir(parents=True, exist_ok=True)
    parts = [folder / f"{index:05d}" for index in range(number)]
    if not all(part.is_dir() for part in parts):
        executor.run(partial(_do_part, rows, work, number, folder), number, folder)
    if missing := [part.name for part in parts if not part.is_dir()]:
        raise DataError(
            f"{len(missing)} of {number} parts were not done, the first is {missing[0]}; "
            f"look at the logs in '{folder}' and prepare again: what is done is kept"
        )
    yield parts
    shutil.rmtree(folder)


@dataclass(frozen=True)
class StepPart:
    """Row steps on a part of the rows."""

    steps: tuple[Step, ...]

    def __call__(self, rows: Iterator[Row], at: Path) -> None:
        report = RowReport()
        with Outcomes(at, report) as outcomes:
            report.kept = write_store(stepped(rows, self.steps, 1, outcomes), at)


def put_together(parts: Sequence[Path], path: Path, report: RowReport) -> None:
    """Write the stores and outcomes of all parts into one folder, in order."""
    report.kept = copy_store(parts, path)
    with Outcomes(path, report) as outcomes:
        for part in parts:
            outcomes.add(outcomes_in(part))


@dataclass(frozen=True)
class SketchPart:
    """What a whole-table step has to know of a part of the rows."""

    step: SketchedStep

    def __call__(self, rows: Iterator[Row], at: Path) -> None:
        self.step.sketch(rows, at)


@dataclass(frozen=True)
class Processes:
    """Processes of this machine as an executor."""

    tasks: int

    def run(self, work: Callable[[int], None], number: int, folder: Path) -> None:
        """Work on all parts here."""
        deque(in_order(work, range(number), self.tasks), maxlen=0)
