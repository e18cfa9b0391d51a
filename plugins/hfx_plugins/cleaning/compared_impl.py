"""The strings that deduplication compares, row by row, and sketches of them that lie in folders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from filelock import FileLock

from hfx import DataError, Drops, Row, nearest

_COLUMNS = "columns.json"


class Compared:
    """Iterate it for each row's number and strings; it knows afterwards which columns the rows had."""

    def __init__(self, rows: Iterable[Row], columns: Sequence[str] | None) -> None:
        self._rows = rows
        self._columns = columns
        self._missing = set(columns or ())
        self._seen: dict[str, None] = {}

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        for row in self._rows:
            names = None if self._columns is None else [name for name in self._columns if name in row.values]
            if self._missing:
                self._missing.difference_update(row.values)
                self._seen.update(dict.fromkeys(row.values))
            yield row.number, [text.value for text in row.texts(names)]

    def save(self, folder: Path) -> None:
        """Write down which of the columns no row had, and what the rows had instead."""
        (folder / _COLUMNS).write_text(json.dumps({"missing": sorted(self._missing), "seen": list(self._seen)}))


def refuse_missing(folders: Sequence[Path], step: str) -> None:
    """Refuse columns that no row has: rows may differ in their columns, but each column is in some row.

    Raises:
        DataError: no row has one of the columns.
    """
    parts = [json.loads((folder / _COLUMNS).read_text()) for folder in folders]
    seen = list(dict.fromkeys(name for part in parts for name in part["seen"]))
    missing = set.intersection(*(set(part["missing"]) for part in parts))
    if missing and seen:
        name = min(missing)
        raise DataError(
            f"'{step}' is to compare the column '{name}', which no row has;{nearest(name, seen)} "
            f"the rows have {', '.join(seen)}"
        )


class _Sketched(Protocol):
    @property
    def name(self) -> str: ...
    def sketch(self, rows: Iterable[Row], folder: Path) -> None: ...
    def decide(self, folders: Sequence[Path]) -> Drops: ...


def decided_at_once(step: _Sketched, rows: Iterable[Row]) -> Drops:
    """Return what a step decides of all rows, sketched in one part, in a temporary folder beside the rows' own."""
    path = getattr(rows, "path", None)
    beside = path.parent if isinstance(path, Path) else None
    with TemporaryDirectory(prefix=f"{step.name}-", suffix=".partial", dir=beside) as name:
        folder = Path(name)
        lock = FileLock(folder.with_suffix(".lock"))  # as of every folder that is being built: 'prune' leaves it
        try:
            with lock:
                step.sketch(rows, folder)
                return step.decide([folder])
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)
