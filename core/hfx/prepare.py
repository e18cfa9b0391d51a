"""Preparing: read, clean, split, tokenize, measure; cached by content and memory-mapped afterwards.

Two stages, each a folder named by the hash of what decides it: `rows/KEY` (source and steps) and `table/KEY` (rows,
tokenizer, task, `seq_length`, carried columns). A stage is built under a lock in a temporary folder and renamed when it
is whole, so a killed build leaves nothing that could be mistaken for one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pyarrow as pa
from filelock import FileLock

from hfx.errors import DataError, StorageError
from hfx.protocols import Drop, Example, Row, Rows, Table, Task
from hfx.rows import ROWS_VERSION, RowSet, write_rows
from hfx.table import FIXED, ArrowTable

if TYPE_CHECKING:
    import numpy as np

TABLE_VERSION = 1
_CHUNK = 1_000


def cache_root() -> Path:
    """Return the folder of prepared data: `HFX_CACHE`, else `hfx` in the user's cache folder."""
    if given := os.environ.get("HFX_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hfx"


def content_key(*parts: Any) -> str:
    """Return a hash of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def cached(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return the folder, built once: whoever comes second waits and finds it.

    Raises:
        StorageError: the cache cannot be written.
    """
    if folder.is_dir():
        return folder
    partial = folder.with_suffix(".partial")
    with _locked(folder):
        if folder.is_dir():
            return folder
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            build(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        partial.replace(folder)
    return folder


def _locked(folder: Path) -> FileLock:
    lock = FileLock(f"{folder}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise StorageError(
            f"cannot write prepared data to '{folder.parent}': {error.strerror}; set HFX_CACHE to another folder"
        ) from error
    lock.release()
    return lock


def prepare_rows(rows: Rows, cache: Path, max_bad_rows: int, start: int = 0, stop: int | None = None) -> RowSet:
    """Return the rows of a source after its steps, from the cache or read now.

    Raises:
        DataError: a row cannot be read, or none is left.
    """
    steps = [(step.name, step.version, step.options()) for step in rows.steps]
    key = content_key(ROWS_VERSION, rows.source.fingerprint(), steps, start, stop)
    path = cached(cache / "rows" / key, lambda at: _discard(write_rows(rows, at, start, stop, max_bad_rows)))
    found = RowSet(path, None, key)
    report = found.report
    if report.bad > max_bad_rows:
        raise DataError(
            f"{report.bad} rows cannot be read, the first one {report.first_bad}; "
            f"mend them, or allow them with '--max-bad-rows {report.bad}'"
        )
    return found


def _discard(_: object) -> None:
    return None


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

    facts: dict[str, Any] = json.loads((cached(cache / "facts" / key, build) / "facts.json").read_text())
    return facts


def prepare_table(rows: RowSet, plan: TablePlan, cache: Path) -> ArrowTable:
    """Return the prepared examples of some rows, from the cache or cut and tokenized now."""
    key = plan.key(rows)

    def build(at: Path) -> None:
        _write_table(rows, plan, at, key)

    return ArrowTable(cached(cache / "table" / key, build))


def _write_table(rows: RowSet, plan: TablePlan, path: Path, key: str) -> None:
    counts: Counter[str] = Counter()
    sources: dict[str, int] = {}
    schema: pa.Schema | None = None
    writer: pa.RecordBatchFileWriter | None = None
    with pa.OSFile(str(path / "table.arrow"), "wb") as sink:
        for cut in _cut_all(rows, plan):
            counts.update(cut.counts)
            columns = _columns(cut, plan, sources)
            schema = schema or _schema(columns, plan)
            writer = writer or pa.ipc.new_file(sink, schema)
            writer.write_batch(pa.record_batch(_typed(columns, schema), schema=schema))
        if writer is None:
            writer = pa.ipc.new_file(sink, _schema({name: [] for name in plan.carried}, plan))
        writer.close()
    meta = {
        "fingerprint": key,
        "task_columns": list(plan.task.columns),
        "sources": list(sources),
        "counts": dict(counts),
    }
    (path / "table.json").write_text(json.dumps(meta))


@dataclass
class _Cut:
    """The examples of a chunk of rows."""

    rows: list[tuple[int, str, dict[str, Any]]]
    """Number, source and carried values of each row that has examples."""
    examples: list[list[Example]]
    counts: dict[str, int]


def _cut(rows: RowSet, plan: TablePlan, start: int, stop: int) -> _Cut:
    kept: list[tuple[int, str, dict[str, Any]]] = []
    found: list[list[Example]] = []
    counts: Counter[str] = Counter()
    for row in rows.between(start, stop):
        carried = {name: _carried(row, name) for name in plan.carried}
        outcome = plan.task.examples(row)
        counts["rows"] += 1
        if isinstance(outcome, Drop):
            counts[f"dropped.{outcome.reason}"] += 1
            continue
        counts["split"] += len(outcome) > 1
        counts["truncated"] += any(example.truncated for example in outcome)
        kept.append((row.number, row.place.source, carried))
        found.append(outcome)
    return _Cut(kept, found, dict(counts))


def _carried(row: Row, name: str) -> Any:
    if name not in row.values:
        raise DataError(f"row {row.place} has no column '{name}'; it has {sorted(row.values)}")
    return row.values[name]


def _cut_all(rows: RowSet, plan: TablePlan) -> Iterator[_Cut]:
    spans = [(at, min(at + _CHUNK, len(rows))) for at in range(0, len(rows), _CHUNK)]
    if plan.num_proc == 1 or len(spans) < 2:
        yield from (_cut(rows, plan, *span) for span in spans)
        return
    # Spawned, not forked: the parent may hold locks of torch's and tokenizers' threads.
    with ProcessPoolExecutor(plan.num_proc, get_context("spawn"), _be_worker, (rows, plan)) as pool:
        yield from pool.map(_cut_in_worker, spans)


_worker: tuple[RowSet, TablePlan] | None = None


def _be_worker(rows: RowSet, plan: TablePlan) -> None:
    global _worker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker = (rows, plan)


def _cut_in_worker(span: tuple[int, int]) -> _Cut:
    if _worker is None:
        raise AssertionError("the worker was not initialised")
    return _cut(*_worker, *span)


def _columns(cut: _Cut, plan: TablePlan, sources: dict[str, int]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in (*FIXED, *plan.task.columns, *plan.carried)}
    for (number, source, carried), examples in zip(cut.rows, cut.examples, strict=True):
        for part, example in enumerate(examples):
            fixed = (number, part, example.length, example.units, sources.setdefault(source, len(sources)))
            for name, value in (*zip(FIXED, fixed, strict=True), *example.values.items(), *carried.items()):
                columns[name].append(value)
    return columns


def _schema(columns: dict[str, list[Any]], plan: TablePlan) -> pa.Schema:
    fields = [(name, pa.type_for_alias(alias)) for name, alias in FIXED.items()]
    fields += [(name, _arrow_type(column.type)) for name, column in plan.task.columns.items()]
    fields += [(name, pa.array(columns[name]).type if columns[name] else pa.float64()) for name in plan.carried]
    return pa.schema(fields)


def _arrow_type(alias: str) -> pa.DataType:
    if alias.startswith("list<"):
        return pa.list_(pa.type_for_alias(alias[len("list<") : -1]))
    return pa.type_for_alias(alias)


def _typed(columns: dict[str, list[Any]], schema: pa.Schema) -> list[pa.Array]:
    arrays: list[pa.Array] = []
    for field in schema:
        try:
            arrays.append(pa.array(columns[field.name], type=field.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(
                f"the column '{field.name}' holds what is no {field.type}: {error}; mend the data"
            ) from error
    return arrays


class OneBlock:
    """Indexed data: one table."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def get(self, index: int) -> Table | None:
        """Return the table as block 0."""
        return self._table if index == 0 else None


class StreamBlocks:
    """A stream: blocks of rows, read and prepared when they are asked for, then ordinary tables in the cache."""

    def __init__(
        self, rows: Rows, plan: TablePlan, cache: Path, max_bad_rows: int, first: Table, held_out: RowSet
    ) -> None:
        self._rows, self._plan, self._cache, self._max_bad = rows, plan, cache, max_bad_rows
        self._tables: dict[int, Table | None] = {0: first}
        self._held_out: np.ndarray[Any, np.dtype[np.uint64]] = held_out.hashes()

    def get(self, index: int) -> Table | None:
        """Return a block's table, or None behind the stream's end; keeps two open."""
        if index not in self._tables:
            size = self._rows.block
            found = prepare_rows(self._rows, self._cache, self._max_bad, index * size, (index + 1) * size)
            ended = found.report.read == 0
            table = None if ended else prepare_table(found.without(self._held_out), self._plan, self._cache)
            self._tables = {i: t for i, t in self._tables.items() if i in (0, index - 1)} | {index: table}
        return self._tables[index]


def carried_columns(plugins: Iterable[Any]) -> tuple[str, ...]:
    """Return the raw columns that options of type `Column` name, sorted."""
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
    return tuple(sorted(names))


__all__: Sequence[str] = [
    "OneBlock", "StreamBlocks", "TablePlan", "cache_root", "cached", "carried_columns", "content_key", "fit_task",
    "prepare_rows", "prepare_table", "tokenizer_fingerprint",
]  # fmt: skip
