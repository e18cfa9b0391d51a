"""From rows to tables: the task learns its facts, cuts and tokenizes; cached by content and memory-mapped afterwards.

What decides a table: its rows (see `stages.py`), the tokenizer, the task, `seq_length` and the carried columns.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa

from hfx.cache import cached, content_key, reading
from hfx.cutting import Cut, CutSpan, schema
from hfx.errors import ConfigError, DataError
from hfx.protocols import Task
from hfx.rows import RowSet
from hfx.table import CARRIED, DROPPED, FIXED, ArrowTable
from hfx.waiting import counted
from hfx.workers import in_order

TABLE_VERSION = 3
MOST_VALUES = 50
"""Values of a mark that are written down."""
_CHUNK = 1_000


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return a hash of what a tokenizer does to text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    body = backend.to_str() if backend is not None else tokenizer.get_vocab()
    return content_key(type(tokenizer).__name__, body, tokenizer.special_tokens_map)


@dataclass(frozen=True)
class TablePlan:
    """What decides a prepared table, beside its rows."""

    task: Task
    tokenizer: Any
    seq_length: int
    carried: tuple[str, ...] = ()
    """Raw columns that active plugins name."""
    num_proc: int = 1

    def key(self, rows: RowSet) -> str:
        """Return the table's key in the cache."""
        task = [type(self.task).__name__, self.task.version, self.task.fingerprint()]
        return content_key(
            TABLE_VERSION, rows.fingerprint, task, tokenizer_fingerprint(self.tokenizer), self.seq_length, self.carried
        )


def fit_task(rows: RowSet, task: Task, cache: Path) -> dict[str, Any]:
    """Return the facts a task learns from the training rows, from the cache or learned now."""
    key = content_key(TABLE_VERSION, rows.fingerprint, type(task).__name__, task.version, task.fingerprint())

    def build(at: Path) -> None:
        (at / "facts.json").write_text(json.dumps(task.fit(rows)))

    folder = cached(cache / "facts" / key, build)
    with reading(folder):
        facts: dict[str, Any] = json.loads((folder / "facts.json").read_text())
    return facts


def prepare_table(rows: RowSet, plan: TablePlan, cache: Path) -> ArrowTable:
    """Return the prepared examples of some rows, from the cache or cut and tokenized now."""
    key = plan.key(rows)

    def build(at: Path) -> None:
        _write_table(rows, plan, at, key)

    return ArrowTable(cached(cache / "table" / key, build))


def _write_table(rows: RowSet, plan: TablePlan, path: Path, key: str) -> None:
    counts: Counter[str] = Counter()
    marks: dict[str, Counter[str]] = {}
    sources: dict[str, int] = {}
    carried: list[pa.Table] = []
    with (
        pa.OSFile(str(path / "table.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, schema(plan.task)) as writer,
        (path / DROPPED).open("w") as dropped,
    ):
        for cut in _cut_all(rows, plan):
            counts.update(cut.counts)
            for name, values in cut.marks.items():
                marks.setdefault(name, Counter()).update(values)
            dropped.writelines(json.dumps(line) + "\n" for line in cut.dropped)
            writer.write_batch(_of_all(cut, sources))
            carried.append(cut.carried)
    if plan.carried:
        _write_carried(carried, path / CARRIED)
    meta = {
        "fingerprint": key,
        "task_columns": list(plan.task.columns),
        "sources": list(sources),
        "counts": dict(counts),
        "marks": {name: dict(values.most_common(MOST_VALUES)) for name, values in marks.items()},
    }
    (path / "table.json").write_text(json.dumps(meta))


def _cut_all(rows: RowSet, plan: TablePlan) -> Iterator[Cut]:
    spans = ((at, min(at + _CHUNK, len(rows))) for at in range(0, len(rows), _CHUNK))
    cut = in_order(CutSpan(rows, plan.task, plan.carried), spans, plan.num_proc)
    return counted(cut, "cutting and tokenizing", total=len(rows), step=_CHUNK)


def _of_all(cut: Cut, sources: dict[str, int]) -> pa.RecordBatch:
    """Return a chunk's examples with their sources counted through all chunks."""
    numbers = pa.array([sources.setdefault(name, len(sources)) for name in cut.sources], pa.int32())
    at = cut.batch.schema.get_field_index("source")
    return cut.batch.set_column(at, cut.batch.schema.field(at), numbers.take(cut.batch.column(at)))


def _write_carried(parts: list[pa.Table], path: Path) -> None:
    """Write the raw columns in a file of their own: their types are those of all rows together."""
    try:
        whole = pa.concat_tables(parts, promote_options="permissive") if parts else pa.table({})
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"a column that a plugin names holds values of several types: {error}") from error
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, whole.schema) as writer:
        writer.write_table(whole)


def carried_columns(plugins: Iterable[Any]) -> tuple[str, ...]:
    """Return the raw columns that options of type `Column` name, sorted.

    Raises:
        ConfigError: one of them has the name of a column that every table has.
    """
    from hfx.plugin import ColumnName

    def marks(annotation: Any) -> Iterator[Any]:
        yield from getattr(annotation, "__metadata__", ())
        for inner in get_args(annotation):
            yield from marks(inner)

    names: set[str] = set()
    for plugin in plugins:
        for field, info in type(plugin).model_fields.items():
            value = getattr(plugin, field)
            named = any(isinstance(mark, ColumnName) for mark in (*info.metadata, *marks(info.annotation)))
            if named and isinstance(value, str):
                names.add(value)
    if taken := names & FIXED.keys():
        raise ConfigError(f"'{min(taken)}' names a column of the prepared table itself; rename it in the data")
    return tuple(sorted(names))
