"""The row store: rows as they come out of source and steps, on disk, each with its number, place and content hash.

Written once per content (see `prepare.py`), memory-mapped afterwards. Values are kept as JSON, so rows may differ in
their columns. Evaluation rows are chosen by content hash, so equal rows are never on both sides.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from hfx.errors import DataError
from hfx.protocols import BadRow, Drop, Place, Row, Rows, Step, TableStep

ROWS_VERSION = 1
MOST_EVAL_ROWS = 2_000
_BATCH = 1_000
_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("source", pa.string()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("hash", pa.uint64()),
        ("values", pa.large_string()),
    ]
)


@dataclass
class RowReport:
    """What happened to the rows: read, bad, dropped and changed by reason, and how many are left."""

    read: int = 0
    kept: int = 0
    bad: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    first_bad: str | None = None


class RowSet:
    """A split's rows, in order: iterate it for `Row`s; it reads from disk and holds only its indices."""

    def __init__(self, path: Path, indices: np.ndarray[Any, np.dtype[np.int64]] | None, fingerprint: str) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self._indices = indices

    @cached_property
    def _store(self) -> pa.Table:
        return pa.ipc.open_file(pa.memory_map(str(self.path / "rows.arrow"))).read_all()

    @property
    def report(self) -> RowReport:
        """What happened to the rows of the store, of both splits."""
        return RowReport(**json.loads((self.path / "report.json").read_text()))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_store"}

    def __len__(self) -> int:
        return self._store.num_rows if self._indices is None else len(self._indices)

    def __iter__(self) -> Iterator[Row]:
        return self.between(0, len(self))

    def between(self, start: int, stop: int) -> Iterator[Row]:
        """Yield the rows at positions `start` to `stop`."""
        for begin in range(start, stop, _BATCH):
            end = min(stop, begin + _BATCH)
            chosen = (
                self._store.slice(begin, end - begin)
                if self._indices is None
                else self._store.take(pa.array(self._indices[begin:end]))
            )
            for item in chosen.to_pylist():
                place = Place(item["source"], item["file"], item["line"])
                yield Row(json.loads(item["values"]), place, item["number"])

    def hashes(self) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """Return the content hash of each row, `(len,)`."""
        found: np.ndarray[Any, np.dtype[np.uint64]] = self._store.column("hash").to_numpy()
        return found if self._indices is None else found[self._indices]

    def split(self, share: float) -> tuple[RowSet, RowSet]:
        """Return (training rows, evaluation rows): the rows with the lowest content hashes are held out."""
        hashes = self.hashes()
        limit = int(share * 2**64)
        low = np.sort(hashes[hashes < np.uint64(min(limit, 2**64 - 1))]) if limit else hashes[:0]
        if len(low) > MOST_EVAL_ROWS:
            low = low[low < low[MOST_EVAL_ROWS]]
        elif not len(low) and limit and len(hashes) > 1:
            low = hashes.min(keepdims=True)
        held_out = np.isin(hashes, low)
        if held_out.all():
            held_out[:] = False
        return self._subset(~held_out, f"train/{share}"), self._subset(held_out, f"eval/{share}")

    def without(self, hashes: np.ndarray[Any, np.dtype[np.uint64]]) -> RowSet:
        """Return the rows whose content is none of these: a stream's later blocks leave out evaluation rows."""
        mark = xxhash.xxh3_64_hexdigest(np.sort(hashes).tobytes())
        return self._subset(~np.isin(self.hashes(), hashes), f"without/{mark}")

    def _subset(self, mask: np.ndarray[Any, np.dtype[np.bool_]], label: str) -> RowSet:
        chosen = np.flatnonzero(mask)
        own = np.arange(len(mask)) if self._indices is None else self._indices
        return RowSet(self.path, own[chosen].astype(np.int64), f"{self.fingerprint}/{label}")


def write_rows(rows: Rows, path: Path, start: int, stop: int | None, max_bad_rows: int) -> RowReport:
    """Read rows `start` to `stop`, run the steps, and write the store into an existing folder.

    Raises:
        DataError: more rows than `max_bad_rows` cannot be read.
    """
    report = RowReport()
    kept = _read(rows, path, start, stop, max_bad_rows, report)
    for group in _runs_of_steps(rows.steps):
        kept = (
            _whole_table(kept, group, path, report) if isinstance(group, TableStep) else _row_steps(kept, group, report)
        )
    sink = pa.OSFile(str(path / "rows.arrow"), "wb")
    with sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        while chunk := list(islice(kept, _BATCH)):
            report.kept += len(chunk)
            writer.write_batch(_record_batch(chunk))
    (path / "report.json").write_text(json.dumps(asdict(report)))
    return report


def _runs_of_steps(steps: Iterable[Step | TableStep]) -> list[list[Step] | TableStep]:
    groups: list[list[Step] | TableStep] = []
    for step in steps:
        if isinstance(step, TableStep):
            groups.append(step)
        elif groups and isinstance(groups[-1], list):
            groups[-1].append(step)
        else:
            groups.append([step])
    return groups


def _read(rows: Rows, path: Path, start: int, stop: int | None, max_bad_rows: int, report: RowReport) -> Iterator[Row]:
    with (path / "quarantine.jsonl").open("w", encoding="utf-8") as quarantine:
        for number, row in enumerate(rows.source.read(start), start=start):
            if stop is not None and number >= stop:
                return
            report.read += 1
            if isinstance(row, Row):
                row.number = number
                yield row
                continue
            report.bad += 1
            report.first_bad = report.first_bad or f"{row.place}: {row.reason}"
            quarantine.write(json.dumps({"number": number, **asdict(row.place), "reason": row.reason}) + "\n")
            if report.bad > max_bad_rows:
                raise DataError(_bad_rows(report, row))


def _bad_rows(report: RowReport, row: BadRow) -> str:
    if report.bad == 1:
        return f"cannot read row {row.place}: {row.reason}; mend it, or allow bad rows with '--max-bad-rows 100'"
    return f"{report.bad} rows cannot be read, the first one {report.first_bad}; mend them, or raise 'max_bad_rows'"


def _row_steps(rows: Iterator[Row], steps: list[Step], report: RowReport) -> Iterator[Row]:
    dropped, changed = Counter(report.dropped), Counter(report.changed)
    while chunk := list(islice(rows, _BATCH)):
        for step in steps:
            outcomes = step.apply(chunk)
            if len(outcomes) != len(chunk):
                raise DataError(
                    f"the step '{step.name}' returned {len(outcomes)} outcomes for {len(chunk)} rows; "
                    "it has to return one for each"
                )
            dropped.update(f"{step.name}.{row.reason}" for row in outcomes if isinstance(row, Drop))
            chunk = [row for row in outcomes if isinstance(row, Row)]
        changed.update(reason for row in chunk for reason in row.reasons)
        report.dropped, report.changed = dict(dropped), dict(changed)
        yield from chunk


def _whole_table(rows: Iterator[Row], step: TableStep, path: Path, report: RowReport) -> Iterator[Row]:
    """Spool the rows to disk, let the step look at all of them, and yield those it keeps."""
    spool = path / f"spool-{step.name}.arrow"
    sink = pa.OSFile(str(spool), "wb")
    with sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        while chunk := list(islice(rows, _BATCH)):
            writer.write_batch(_record_batch(chunk))
    spooled = _Spool(spool)
    drops = step.drops(spooled)
    counts = Counter(f"{step.name}.{reason}" for reason in drops.values())
    report.dropped = dict(Counter(report.dropped) + counts)
    yield from (row for row in spooled if row.number not in drops)
    spool.unlink()


class _Spool(RowSet):
    """Rows between two steps."""

    def __init__(self, file: Path) -> None:
        super().__init__(file.parent, None, file.name)
        self._file = file

    @cached_property
    def _store(self) -> pa.Table:
        return pa.ipc.open_file(pa.memory_map(str(self._file))).read_all()


def _record_batch(rows: list[Row]) -> pa.RecordBatch:
    values = [_encode(row.values) for row in rows]
    columns = [
        [row.number for row in rows],
        [row.place.source for row in rows],
        [row.place.file for row in rows],
        [row.place.row for row in rows],
        [xxhash.xxh3_64_intdigest(text.encode()) for text in values],
        values,
    ]
    return pa.record_batch(columns, schema=_SCHEMA)


def _encode(values: dict[str, Any]) -> str:
    text = json.dumps(values, ensure_ascii=False, default=str)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can carry and UTF-8 cannot
        return json.dumps(values, default=str)
    return text
