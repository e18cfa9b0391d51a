"""A row step that fails while a file lies in its way; importable, since other processes have to find it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfx import Drop, Row


@dataclass(frozen=True)
class FailingStep:
    """Keeps every row, but raises at one of them as long as the file exists."""

    number: int
    obstacle: Path
    name: str = "failing"
    version: int = 1

    def options(self) -> dict[str, Any]:
        return {}

    def apply(self, rows: list[Row]) -> list[Row | Drop]:
        if self.obstacle.exists() and any(row.number == self.number for row in rows):
            raise ValueError(f"row {self.number} cannot be stepped")
        return list(rows)
