"""Reading `metrics.jsonl`: its end alone, all of it as columns, or what is added while a run writes it.

A line that cannot be read is counted and left out: the last one of a killed run may be torn.
"""

from __future__ import annotations

import json
import math
import mmap
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"
_TAIL = 64 * 2**10
"""Bytes at the end of the file that hold the last steps."""
_MARK = 256
"""Bytes before the place read to, by which it is found out that the file was cut there."""
Line = dict[str, Any]


def line_of(text: str | bytes) -> Line | None:
    """Return a line as JSON values, or None where it is none of a run's: torn, damaged, without a step."""
    try:
        found = json.loads(text)
        step = found["step"]
        known = isinstance(step, int | float) and not isinstance(step, bool) and math.isfinite(step)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return found if known else None


def is_event(line: Line) -> bool:
    """Return whether a line tells of something that went wrong."""
    return "event" in line


def is_evaluation(line: Line) -> bool:
    """Return whether a line holds the figures of an evaluation."""
    return "eval_loss" in line and not is_event(line)


def is_step(line: Line) -> bool:
    """Return whether a line holds the figures of a step."""
    return "loss" in line and not is_event(line)


# ── the end of it ────────────────────────────────────────────────────────────────────────────────────────────────────


def last_steps(output: Path) -> list[Line]:
    """Return the last steps of a run, the newest last, without reading the whole file."""
    with _mapped(output / METRICS_FILE) as content:
        start = max(0, len(content) - _TAIL)
        pieces = bytes(content[start:]).split(b"\n")
    lines = [line_of(piece) for piece in (pieces[1:] if start else pieces)]
    return [line for line in lines if line and is_step(line)]


def evaluations(output: Path) -> list[Line]:
    """Return the evaluations of a run, found by their key, so that the other lines are not parsed."""
    found = []
    with _mapped(output / METRICS_FILE) as content:
        at = content.find(b'"eval_loss"')
        while at >= 0:
            end = content.find(b"\n", at)
            end = len(content) if end < 0 else end
            line = line_of(bytes(content[content.rfind(b"\n", 0, at) + 1 : end]))
            if line and is_evaluation(line):
                found.append(line)
            at = content.find(b'"eval_loss"', end)
    return found


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    """Map a file; one that is empty, or not there yet, has no bytes."""
    if not path.exists() or not path.stat().st_size:
        yield b""
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield content


# ── all of it ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Figures:
    """All lines of a run: its steps as columns of numbers, evaluations and events line by line."""

    columns: dict[str, array[float]] = field(default_factory=dict)
    """By name, each `(steps,)`; NaN where a step has no such figure."""
    evaluations: list[Line] = field(default_factory=list)
    events: list[Line] = field(default_factory=list)
    damaged: int = 0
    """Lines that cannot be read."""
    steps: int = 0

    def __getitem__(self, name: str) -> array[float]:
        return self.columns.get(name) or array("d", [math.nan]) * self.steps

    def add(self, line: Line) -> None:
        """Take a line."""
        if is_event(line):
            self.events.append(line)
        elif is_step(line):
            self._add_step(line)
        elif is_evaluation(line):
            self.evaluations.append(line)

    def _add_step(self, line: Line) -> None:
        columns, steps = self.columns, self.steps
        for name, value in line.items():
            if isinstance(value, int | float):
                column = columns.get(name)
                if column is None:
                    column = columns[name] = array("d", [math.nan]) * steps
                elif len(column) < steps:
                    column.extend(array("d", [math.nan]) * (steps - len(column)))
                column.append(_number(value))
        self.steps += 1

    def complete(self) -> Figures:
        """Make all columns as long as there are steps."""
        for column in self.columns.values():
            column.extend(array("d", [math.nan]) * (self.steps - len(column)))
        return self


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def read_figures(output: Path) -> Figures:
    """Return all that a run wrote about its steps; nothing before the first of them.

    Raises:
        OSError: the file cannot be read.
    """
    found = Figures()
    path = output / METRICS_FILE
    if path.exists():
        with path.open("rb") as file:
            for text in file:
                line = line_of(text)
                if line:
                    found.add(line)
                elif text.strip() and text.endswith(b"\n"):  # one without its end is being written
                    found.damaged += 1
    return found.complete()


# ── while it grows ───────────────────────────────────────────────────────────────────────────────────────────────────


class Follower:
    """Reads what is added to `metrics.jsonl`, and notices that it was cut, as it is when a run resumes or goes back."""

    def __init__(self, output: Path) -> None:
        self._path = output / METRICS_FILE
        self._offset = 0
        self._mark = b""

    def read(self) -> tuple[bool, list[Line]]:
        """Return whether the file was cut, and its new lines; of one that was cut all of them are new."""
        if not self._path.exists():
            cut, self._offset, self._mark = self._offset > 0, 0, b""
            return cut, []
        with self._path.open("rb") as file:
            file.seek(self._offset - len(self._mark))
            cut = file.read(len(self._mark)) != self._mark
            if cut:
                self._offset, self._mark = 0, b""
                file.seek(0)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]  # a line without its end is read once it has one
        self._offset += len(whole)
        self._mark = (self._mark + whole)[-_MARK:]
        return cut, [line for line in map(line_of, whole.splitlines()) if line]
