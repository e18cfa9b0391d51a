"""What happened to rows on their way: which were dropped or changed, by which step, why, and how some looked before.

Every stage has a file `outcomes.arrow`; `hfx data sample` shows it, and a report holds its counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from hfx.protocols import Place, Row, Values
from hfx.rows import RowReport, RowSet, encoded

SHOWN = 50
"""Rows kept as they were, for each reason: what `hfx data sample` shows."""
FILE = "outcomes.arrow"
_BATCH = 1_000
_SCHEMA = pa.schema(
    [("number", pa.int64()), ("source", pa.string()), ("file", pa.string()), ("line", pa.int64()),
     ("reason", pa.string()), ("dropped", pa.bool_()), ("before", pa.large_string())]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """A row that a step dropped or changed, why, and its values before as JSON, where they are kept."""

    number: int
    place: Place
    reason: str
    dropped: bool
    before: str | None


def noted(happened: Iterable[tuple[Row, str, bool, Values]]) -> Iterator[Outcome]:
    """Yield an outcome for each (row, reason, dropped, values before), with values as long as they will be shown."""
    seen: Counter[str] = Counter()
    for row, reason, dropped, before in happened:
        seen[reason] += 1
        kept = encoded(before) if seen[reason] <= SHOWN else None
        yield Outcome(row.number, row.place, reason, dropped, kept)


class Outcomes:
    """The file of a stage, written in batches; at the end its counts are added to the report's."""

    def __init__(self, path: Path, report: RowReport) -> None:
        self._sink = pa.OSFile(str(path / FILE), "wb")
        self._writer = pa.ipc.new_file(self._sink, _SCHEMA)
        self._report = report
        self._counts = {True: Counter(report.dropped), False: Counter(report.changed)}
        self._waiting: list[Outcome] = []
        self._kept: Counter[str] = Counter()

    def __enter__(self) -> Outcomes:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()
        self._sink.close()
        self._report.dropped, self._report.changed = dict(self._counts[True]), dict(self._counts[False])

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Write down what happened to some rows."""
        for outcome in outcomes:
            self._counts[outcome.dropped][outcome.reason] += 1
            self._waiting.append(outcome)
            if len(self._waiting) >= _BATCH:
                self._flush()

    def _flush(self) -> None:
        columns: list[list[Any]] = [[] for _ in _SCHEMA]
        for outcome in self._waiting:
            self._kept[outcome.reason] += 1
            shown = outcome.before if self._kept[outcome.reason] <= SHOWN else None
            place = outcome.place
            line = (outcome.number, place.source, place.file, place.row, outcome.reason, outcome.dropped, shown)
            for column, value in zip(columns, line, strict=True):
                column.append(value)
        if self._waiting:
            self._writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
        self._waiting = []


def outcomes_in(folder: Path) -> Iterator[Outcome]:
    """Yield what the file in a folder holds."""
    for line in _lines(folder):
        place = Place(line["source"], line["file"], line["line"])
        yield Outcome(line["number"], place, line["reason"], line["dropped"], line["before"])


def outcomes_of(rows: RowSet) -> Iterator[dict[str, Any]]:
    """Yield what happened to the rows in every stage: number, source, file, line, reason, dropped, before."""
    for stage in rows.report.stages:
        yield from _lines(rows.stage.parent / stage)


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    with pa.memory_map(str(folder / FILE)) as file:
        reader = pa.ipc.open_file(file)
        for index in range(reader.num_record_batches):
            yield from reader.get_batch(index).to_pylist()
