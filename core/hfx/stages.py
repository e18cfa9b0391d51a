"""From a source to a row store, stage by stage: one per run of row steps, one per whole-table step, each cached.

The first stage reads the source and runs the row steps before the first whole-table step; a whole-table step keeps only
which rows it leaves; what follows starts from there. So another threshold of a deduplication reads nothing anew.
Whatever is dropped or changed is written down: its number, place, step and reason, and some rows as they were before.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hfx.cache import cached, content_key
from hfx.errors import DataError
from hfx.protocols import BadRow, Drop, Row, Rows, Step, TableStep, Values
from hfx.rows import ROWS_VERSION, RowReport, RowSet, encoded, write_store
from hfx.waiting import counted
from hfx.workers import in_order

_CHUNK = 1_000
SHOWN = 50
"""Rows kept as they were, for each reason: what `hfx data sample` shows."""
_OUTCOMES = pa.schema(
    [("number", pa.int64()), ("source", pa.string()), ("file", pa.string()), ("line", pa.int64()),
     ("reason", pa.string()), ("dropped", pa.bool_()), ("before", pa.large_string())]
)  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """How rows are read: which of them, how many may be unreadable, and on how many processes the steps run."""

    max_bad_rows: int = 0
    num_proc: int = 1
    start: int = 0
    stop: int | None = None


def prepare_rows(rows: Rows, cache: Path, reading: Reading) -> RowSet:
    """Return the rows of a source after its steps, each stage from the cache or made now.

    Raises:
        DataError: more rows than `max_bad_rows` cannot be read.
    """
    groups = runs_of_steps(rows.steps)
    first: list[Step] = []
    if groups and isinstance(groups[0], list):
        first, *groups = groups  # type: ignore[assignment]
    key = content_key(ROWS_VERSION, rows.source.fingerprint(), reading.start, reading.stop, _identities(first))
    path = cached(cache / "rows" / key, lambda at: _write_first(rows, first, reading, at, key))
    found = RowSet(path, None, key)
    _refuse_bad(found.report, reading.max_bad_rows)
    for group in groups:
        found = _left_by(group, found, cache) if isinstance(group, TableStep) else _after(group, found, cache, reading)
    return found


def runs_of_steps(steps: Iterable[Step | TableStep]) -> list[list[Step] | TableStep]:
    """Return the steps by stage: a list of row steps that follow each other, or one whole-table step."""
    groups: list[list[Step] | TableStep] = []
    for step in steps:
        if isinstance(step, TableStep):
            groups.append(step)
        elif groups and isinstance(groups[-1], list):
            groups[-1].append(step)
        else:
            groups.append([step])
    return groups


def _identities(steps: Iterable[Step | TableStep]) -> list[Any]:
    return [[step.name, step.version, step.options()] for step in steps]


# ── row steps ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _write_first(rows: Rows, steps: Sequence[Step], reading: Reading, path: Path, key: str) -> None:
    report = RowReport(stages=[key])
    _write_stage(_read(rows, path, reading, report), steps, reading.num_proc, path, report)


def _after(steps: Sequence[Step], before: RowSet, cache: Path, reading: Reading) -> RowSet:
    key = content_key(ROWS_VERSION, before.fingerprint, _identities(steps))

    def build(path: Path) -> None:
        report = before.report
        report.stages.append(key)
        _write_stage(iter(before), steps, reading.num_proc, path, report)

    return RowSet(cached(cache / "rows" / key, build), None, key)


def _write_stage(rows: Iterator[Row], steps: Sequence[Step], num_proc: int, path: Path, report: RowReport) -> None:
    with _Outcomes(path, report) as outcomes:
        rows = counted(rows, "reading rows")
        report.kept = write_store(_stepped(rows, steps, num_proc, outcomes) if steps else rows, path)
    (path / "report.json").write_text(json.dumps(asdict(report)))


def _read(rows: Rows, path: Path, reading: Reading, report: RowReport) -> Iterator[Row]:
    with (path / "quarantine.jsonl").open("w", encoding="utf-8") as quarantine:
        for number, row in enumerate(rows.source.read(reading.start), start=reading.start):
            if reading.stop is not None and number >= reading.stop:
                return
            report.read += 1
            if isinstance(row, Row):
                row.number = number
                yield row
                continue
            report.bad += 1
            report.first_bad = report.first_bad or f"{row.place}: {row.reason}"
            quarantine.write(json.dumps({"number": number, **asdict(row.place), "reason": row.reason}) + "\n")
            if report.bad > reading.max_bad_rows:
                raise DataError(_bad_rows(report, row))


def _bad_rows(report: RowReport, row: BadRow) -> str:
    if report.bad == 1:
        return f"cannot read row {row.place}: {row.reason}; mend it, or allow bad rows with '--max-bad-rows 100'"
    return f"{report.bad} rows cannot be read, the first one {report.first_bad}; mend them, or raise 'max_bad_rows'"


def _refuse_bad(report: RowReport, max_bad_rows: int) -> None:
    if report.bad > max_bad_rows:
        raise DataError(
            f"{report.bad} rows cannot be read, the first one {report.first_bad}; "
            f"mend them, or allow them with '--max-bad-rows {report.bad}'"
        )


@dataclass(frozen=True)
class _Apply:
    """Row steps as a worker runs them: a chunk of rows in, what is left and what happened out."""

    steps: tuple[Step, ...]

    def __call__(self, rows: list[Row]) -> tuple[list[Row], list[_Outcome]]:
        happened: list[_Outcome] = []
        for step in self.steps:
            before = [(_copy(row.values), len(row.reasons)) for row in rows]
            outcomes = step.apply(rows)
            if len(outcomes) != len(rows):
                raise DataError(
                    f"the step '{step.name}' returned {len(outcomes)} outcomes for {len(rows)} rows; "
                    "it has to return one for each"
                )
            for row, (values, reasons), outcome in zip(rows, before, outcomes, strict=True):
                if isinstance(outcome, Drop):
                    happened.append(_Outcome(row, f"{step.name}.{outcome.reason}", True, values))
                else:
                    happened += [_Outcome(row, reason, False, values) for reason in outcome.reasons[reasons:]]
            rows = [outcome for outcome in outcomes if isinstance(outcome, Row)]
        return rows, _shown(happened)


def _copy(value: Any) -> Any:
    """Return a copy that a step's changes in place do not reach; what cannot be changed is shared."""
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value


def _shown(happened: list[_Outcome]) -> list[_Outcome]:
    """Return what happened without more values than will be kept: it travels between processes."""
    seen: Counter[str] = Counter()
    result = []
    for outcome in happened:
        seen[outcome.reason] += 1
        row = Row({}, outcome.row.place, outcome.row.number)
        result.append(replace(outcome, row=row, before=outcome.before if seen[outcome.reason] <= SHOWN else None))
    return result


def _stepped(rows: Iterator[Row], steps: Sequence[Step], num_proc: int, outcomes: _Outcomes) -> Iterator[Row]:
    chunks = iter(lambda: list(islice(rows, _CHUNK)), [])
    for kept, happened in in_order(_Apply(tuple(steps)), chunks, num_proc):
        outcomes.add(happened)
        yield from kept


# ── whole-table steps ────────────────────────────────────────────────────────────────────────────────────────────────


def _left_by(step: TableStep, before: RowSet, cache: Path) -> RowSet:
    key = content_key(ROWS_VERSION, before.fingerprint, _identities([step]))

    def build(path: Path) -> None:
        report = before.report
        report.stages.append(key)
        drops = step.drops(before)
        numbers = before.numbers()
        dropped = np.isin(numbers, np.fromiter(drops, np.int64, len(drops)))
        with _Outcomes(path, report) as outcomes:
            gone = before.where(dropped, "dropped")
            outcomes.add(_Outcome(row, f"{step.name}.{drops[row.number]}", True, row.values) for row in gone)
        if facts := getattr(drops, "facts", None):
            report.facts[step.name] = facts
        report.kept = int((~dropped).sum())
        np.save(path / "kept.npy", before.positions(~dropped))
        (path / "report.json").write_text(json.dumps(asdict(report)))

    stage = cached(cache / "rows" / key, build)
    return RowSet(before.path, np.load(stage / "kept.npy", mmap_mode="r"), key, stage)


# ── what happened ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Outcome:
    """A row that a step dropped or changed, why, and its values before."""

    row: Row
    reason: str
    dropped: bool
    before: Values | None


class _Outcomes:
    """The file `outcomes.arrow` of a stage, and the report's counts."""

    def __init__(self, path: Path, report: RowReport) -> None:
        self._sink = pa.OSFile(str(path / "outcomes.arrow"), "wb")
        self._writer = pa.ipc.new_file(self._sink, _OUTCOMES)
        self._report = report
        self._counts = {True: Counter(report.dropped), False: Counter(report.changed)}
        self._waiting: list[_Outcome] = []
        self._kept: Counter[str] = Counter()

    def __enter__(self) -> _Outcomes:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()
        self._sink.close()
        self._report.dropped, self._report.changed = dict(self._counts[True]), dict(self._counts[False])

    def add(self, outcomes: Iterable[_Outcome]) -> None:
        """Write down what happened to some rows."""
        for outcome in outcomes:
            self._counts[outcome.dropped][outcome.reason] += 1
            self._waiting.append(outcome)
            if len(self._waiting) >= _CHUNK:
                self._flush()

    def _flush(self) -> None:
        columns: list[list[Any]] = [[] for _ in _OUTCOMES]
        for outcome in self._waiting:
            self._kept[outcome.reason] += 1
            shown = self._kept[outcome.reason] <= SHOWN and outcome.before is not None
            place = outcome.row.place
            line = (outcome.row.number, place.source, place.file, place.row, outcome.reason, outcome.dropped,
                    encoded(outcome.before or {}) if shown else None)  # fmt: skip
            for column, value in zip(columns, line, strict=True):
                column.append(value)
        if self._waiting:
            self._writer.write_batch(pa.record_batch(columns, schema=_OUTCOMES))
        self._waiting = []


def outcomes_of(rows: RowSet) -> Iterator[dict[str, Any]]:
    """Yield what happened to the rows in every stage: number, source, file, line, reason, dropped, before."""
    for stage in rows.report.stages:
        with pa.memory_map(str(rows.stage.parent / stage / "outcomes.arrow")) as file:
            reader = pa.ipc.open_file(file)
            for index in range(reader.num_record_batches):
                yield from reader.get_batch(index).to_pylist()
