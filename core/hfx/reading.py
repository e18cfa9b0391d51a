"""Rows as they come out of a source: numbered, their values JSON, those that cannot be read in a file of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hfx.errors import DataError
from hfx.protocols import BadRow, Row, Source
from hfx.rows import RowReport

QUARANTINE = "quarantine.jsonl"
_PLAIN = (str, int, float, type(None))


@dataclass(frozen=True)
class Reading:
    """How rows are read: which of them, how many may be unreadable, and on how many processes the steps run."""

    max_bad_rows: int = 0
    num_proc: int = 1
    start: int = 0
    stop: int | None = None


def read_rows(source: Source, reading: Reading, path: Path, report: RowReport) -> Iterator[Row]:
    """Yield the rows that can be read; the others go into `quarantine.jsonl` of an existing folder.

    Raises:
        DataError: there are more of those than `max_bad_rows`.
    """
    with (path / QUARANTINE).open("w", encoding="utf-8") as quarantine:
        for number, row in enumerate(source.read(reading.start), start=reading.start):
            if reading.stop is not None and number >= reading.stop:
                return
            report.read += 1
            if isinstance(row, Row):
                row.number = number
                # A step sees what it would see of stored rows: a date is text, wherever the step runs.
                row.values = _plain(row.values)
                yield row
                continue
            report.bad += 1
            report.first_bad = report.first_bad or f"{row.place}: {row.reason}"
            quarantine.write(json.dumps({"number": number, **asdict(row.place), "reason": row.reason}) + "\n")
            if report.bad > reading.max_bad_rows:
                raise DataError(_bad_rows(report, row))


def _plain(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, bytes):
        return _text(value)
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else str(value)


def _text(value: bytes) -> str | None:
    """Return bytes as the text they are: some writers of Parquet do not say so. Others (pictures) are no value."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _bad_rows(report: RowReport, row: BadRow) -> str:
    if report.bad == 1:
        return f"cannot read row {row.place}: {row.reason}; mend it, or allow bad rows with '--max-bad-rows 100'"
    return f"{report.bad} rows cannot be read, the first one {report.first_bad}; mend them, or raise 'max_bad_rows'"


def refuse_bad(report: RowReport, max_bad_rows: int) -> None:
    """Refuse rows that were read when more were allowed to be bad.

    Raises:
        DataError: there are more of them than `max_bad_rows`.
    """
    if report.bad > max_bad_rows:
        raise DataError(
            f"{report.bad} rows cannot be read, the first one {report.first_bad}; "
            f"mend them, or allow them with '--max-bad-rows {report.bad}'"
        )
