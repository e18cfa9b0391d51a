"""Aligned columns of text: what `docker ps` prints, in place of a drawn table that cannot be grepped."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    """Return the rows, aligned; on a terminal, lines end where it ends."""
    table = [[name.upper() for name in header], *rows] if header else list(rows)
    if not rows:
        return ""
    widths = [max(len(row[index]) for row in table) for index in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    if sys.stdout.isatty():
        limit = shutil.get_terminal_size().columns
        lines = [line if len(line) <= limit else line[: limit - 1] + "…" for line in lines]
    return "\n".join(lines)
