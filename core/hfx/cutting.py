"""From a span of rows to a record batch of examples: what a process that prepares data does, chunk by chunk."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from hfx.errors import DataError, PluginError
from hfx.protocols import Drop, Example, Row, Task
from hfx.rows import RowSet
from hfx.table import FIXED


@dataclass(frozen=True)
class Cut:
    """The examples of a chunk of rows, as they are written."""

    batch: pa.RecordBatch
    """Its `source` counts through `sources`."""
    sources: list[str]
    carried: pa.Table
    counts: dict[str, int]
    marks: dict[str, Counter[str]]
    """What the task found out about the rows."""
    dropped: list[dict[str, Any]]
    """Rows without an example: number, place and reason."""


@dataclass(frozen=True)
class CutSpan:
    """Cutting as a worker does it: a span of the rows in, their examples out."""

    rows: RowSet
    task: Task
    carried: tuple[str, ...]

    def __call__(self, span: tuple[int, int]) -> Cut:
        rows = list(self.rows.between(*span))
        known = [dict(row.marks) for row in rows]
        carried = [{name: _carried(row, name) for name in self.carried} for row in rows]
        kept: list[tuple[Row, list[Example]]] = []
        raw: dict[str, list[Any]] = {name: [] for name in self.carried}
        counts: Counter[str] = Counter()
        marks: dict[str, Counter[str]] = {}
        dropped: list[dict[str, Any]] = []
        for row, before, values, outcome in zip(rows, known, carried, examples_of(self.task, rows), strict=True):
            counts["rows"] += 1
            for name, value in row.marks.items() - before.items():
                marks.setdefault(name, Counter())[value] += 1
            if isinstance(outcome, Drop):
                counts[f"dropped.{outcome.reason}"] += 1
                dropped.append({"number": row.number, "place": str(row.place), "reason": outcome.reason})
                continue
            counts["split"] += len(outcome) > 1
            counts["truncated"] += any(example.truncated for example in outcome)
            kept.append((row, outcome))
            for name, value in values.items():
                raw[name] += [value] * len(outcome)
        sources: dict[str, int] = {}
        columns = _columns(kept, self.task, sources)
        return Cut(_batch(columns, schema(self.task)), list(sources), _carried_table(raw), dict(counts), marks, dropped)


def examples_of(task: Task, rows: list[Row]) -> list[list[Example] | Drop]:
    """Return each row's examples; of many rows at once where the task can.

    Raises:
        PluginError: the task returned another number of outcomes.
    """
    # A subclass that overrides `examples` alone means it.
    owners = (vars(kind).keys() & {"examples", "examples_of"} for kind in type(task).__mro__)
    if "examples_of" not in next(filter(None, owners), set()):
        return [task.examples(row) for row in rows]
    at_once: Any = task
    found: list[list[Example] | Drop] = at_once.examples_of(rows)
    if len(found) != len(rows):
        raise PluginError(
            f"'{type(task).__name__}.examples_of' returned {len(found)} outcomes for {len(rows)} rows; "
            "it has to return one for each"
        )
    return found


def schema(task: Task) -> pa.Schema:
    """Return the columns of a task's prepared table."""
    fields = [(name, pa.type_for_alias(alias)) for name, alias in FIXED.items()]
    fields += [(name, _arrow_type(column.type)) for name, column in task.columns.items()]
    return pa.schema(fields)


def _arrow_type(alias: str) -> pa.DataType:
    if alias.startswith("list<"):
        return pa.list_(pa.type_for_alias(alias[len("list<") : -1]))
    return pa.type_for_alias(alias)


def _columns(kept: list[tuple[Row, list[Example]]], task: Task, sources: dict[str, int]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in (*FIXED, *task.columns)}
    for row, examples in kept:
        source = sources.setdefault(row.place.source, len(sources))
        for part, example in enumerate(examples):
            fixed = (row.number, part, example.length, example.units, source)
            for name, value in (*zip(FIXED, fixed, strict=True), *example.values.items()):
                columns[name].append(value)
    return columns


def _batch(columns: dict[str, list[Any]], schema: pa.Schema) -> pa.RecordBatch:
    arrays: list[pa.Array] = []
    for field in schema:
        try:
            arrays.append(pa.array(columns[field.name], type=field.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(
                f"the column '{field.name}' holds what is no {field.type}: {error}; mend the data"
            ) from error
    return pa.record_batch(arrays, schema=schema)


def _carried(row: Row, name: str) -> Any:
    if name not in row.values:
        raise DataError(f"row {row.place} has no column '{name}'; it has {sorted(row.values)}")
    return row.values[name]


def _carried_table(columns: dict[str, list[Any]]) -> pa.Table:
    """Return the raw columns of a chunk's examples, each of the type of the values it holds here."""
    try:
        return pa.table({name: pa.array(values) for name, values in columns.items()})
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"the columns {', '.join(columns)} hold values of several types: {error}") from error
