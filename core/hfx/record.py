"""What a run writes line by line: `metrics.jsonl` and `ledger.jsonl`, appended while it goes, cut when it resumes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hfx.checkpoint import way_on
from hfx.errors import StorageError


class Record:
    """A file of JSON lines, each with a `step`; every line is flushed, so a killed run leaves whole lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, line: dict[str, Any]) -> None:
        """Write one line.

        Raises:
            StorageError: the disk is full or refuses.
        """
        with self._writing(), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def cut(self, step: int, evaluated: bool = True) -> int:
        """Drop the lines behind a step, keep them beside the file, and return how many there were.

        Args:
            step: The last one that is kept.
            evaluated: Whether an evaluation at that very step is kept, too; else it will be made again.

        Raises:
            StorageError: the disk is full or refuses; the file is as it was.
        """
        last = (step, evaluated)
        if not self.path.exists():
            return 0
        kept: list[str] = []
        dropped: list[str] = []
        for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True):
            (kept if _place(line) <= last else dropped).append(line)
        if dropped:
            with self._writing():
                _append(self.path.with_suffix(f".after-{step}.jsonl"), dropped)
                _replace(self.path, kept)
        return len(dropped)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            said = error.strerror or str(error)
            raise StorageError(
                f"cannot write '{self.path}': {said}; free space, then {way_on(self.path.parent)}"
            ) from error


def _append(path: Path, lines: list[str]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(lines)


def _replace(path: Path, lines: list[str]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())  # else a machine that loses its power may leave an empty file
    partial.replace(path)


_OF_EVALUATIONS = ("sample", "lm_eval")
"""Events of an evaluation, made again with it."""


def _place(line: str) -> tuple[float, bool]:
    """Return a line's step, and whether it is an evaluation or of one, which comes after the step.

    A torn one, the last of a killed run, belongs behind every step.
    """
    try:
        figures = json.loads(line)
        return float(figures["step"]), "eval_loss" in figures or figures.get("event") in _OF_EVALUATIONS
    except ValueError:
        return float("inf"), False
