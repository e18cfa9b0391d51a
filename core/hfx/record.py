"""What a run writes line by line: `metrics.jsonl` and `ledger.jsonl`, appended while it goes, cut when it resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise StorageError(f"cannot write '{self.path}': {error.strerror}; free space and resume") from error

    def cut(self, step: int, evaluated: bool = True) -> int:
        """Drop the lines behind a step, keep them beside the file, and return how many there were.

        Args:
            step: The last one that is kept.
            evaluated: Whether an evaluation at that very step is kept, too; else it will be made again.
        """
        last = (step, evaluated)
        if not self.path.exists():
            return 0
        kept: list[str] = []
        dropped: list[str] = []
        for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True):
            (kept if _place(line) <= last else dropped).append(line)
        if dropped:
            with self.path.with_suffix(f".after-{step}.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(dropped)
            partial = self.path.with_suffix(".partial")
            partial.write_text("".join(kept), encoding="utf-8")
            partial.replace(self.path)
        return len(dropped)


def _place(line: str) -> tuple[float, bool]:
    """Return a line's step, and whether it is an evaluation, which comes after the step.

    A torn one, the last of a killed run, belongs behind every step.
    """
    try:
        figures = json.loads(line)
        return float(figures["step"]), "eval_loss" in figures
    except ValueError:
        return float("inf"), False
