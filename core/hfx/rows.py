"""The row store: rows as they come out of source and steps, on disk, each with its number, place and content hash.

Written once per content (see `stages.py`), memory-mapped afterwards. Values are kept as JSON, so rows may differ in
their columns. Evaluation rows are chosen by content hash, so equal rows are never on both sides.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from hfx.arrow import as_array
from hfx.cache import reading
from hfx.protocols import Place, Row

ROWS_VERSION = 3
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
        ("marks", pa.string()),
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
    facts: dict[str, Any] = field(default_factory=dict)
    """What whole-table steps found, by their names: clusters of duplicates."""
    stages: list[str] = field(default_factory=list)
    """The folders of the stages so far, each with its `outcomes.arrow` and `quarantine.jsonl`."""


class RowSet:
    """A split's rows, in order: iterate it for `Row`s; it reads from disk and holds only its indices."""

    def __init__(
        self,
        path: Path,
        indices: np.ndarray[Any, np.dtype[np.int64]] | None,
        fingerprint: str,
        stage: Path | None = None,
    ) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.stage = stage or path
        self._indices = indices

    @cached_property
    def _store(self) -> pa.Table:
        with reading(self.path):
            return pa.ipc.open_file(pa.memory_map(str(self.path / "rows.arrow"))).read_all()

    @property
    def report(self) -> RowReport:
        """What happened to the rows up to this stage, of both splits."""
        with reading(self.stage):
            return RowReport(**json.loads((self.stage / "report.json").read_text()))

    def __getstate__(self) -> dict[str, Any]:
        state = {key: value for key, value in self.__dict__.items() if key != "_store"}
        if isinstance(self._indices, np.memmap):  # as an array it would travel whole, to every process
            state["_indices"] = Path(str(self._indices.filename))
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(kept := state["_indices"], Path):
            self._indices = np.load(kept, mmap_mode="r")

    def __len__(self) -> int:
        return self._store.num_rows if self._indices is None else len(self._indices)

    def __iter__(self) -> Iterator[Row]:
        return self.between(0, len(self))

    def between(self, start: int, stop: int) -> Iterator[Row]:
        """Yield the rows at positions `start` to `stop`."""
        for begin in range(start, stop, _BATCH):
            for item in self._at(begin, min(stop, begin + _BATCH)).to_pylist():
                place = Place(item["source"], item["file"], item["line"])
                marks = json.loads(item["marks"] or "{}")
                yield Row(json.loads(item["values"]), place, item["number"], marks=marks)

    def _at(self, begin: int, end: int) -> pa.Table:
        if self._indices is None:
            return self._store.slice(begin, end - begin)
        at = self._indices[begin:end]
        low = int(at.min())
        # `take` joins all chunks of what it is given: of the whole store it would copy every value, each time.
        return self._store.slice(low, int(at.max()) + 1 - low).take(pa.array(at - low))

    def numbers(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the number of each row, `(len,)`."""
        return self._column("number")

    def hashes(self) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """Return the content hash of each row, `(len,)`."""
        return self._column("hash")

    def _column(self, name: str) -> np.ndarray[Any, np.dtype[Any]]:
        column = self._store.column(name)
        found = as_array(column.chunk(0) if column.num_chunks == 1 else column.combine_chunks())
        return found if self._indices is None else found[self._indices]

    def marks(self) -> dict[str, Counter[str]]:
        """Return how many rows have each value of each mark that steps left on them."""
        stored = self._store.column("marks")
        if not any(text and text.size for chunk in stored.chunks for text in chunk.buffers()[2:]):
            return {}  # none anywhere: pyarrow's functions, slow to import, are not needed
        column = stored.dictionary_encode().unify_dictionaries()
        codes = np.concatenate([as_array(chunk.indices) for chunk in column.chunks])
        numbers = np.bincount(codes if self._indices is None else codes[self._indices]).tolist()
        found: dict[str, Counter[str]] = {}
        for text, number in zip(column.chunk(0).dictionary.to_pylist(), numbers, strict=False):
            for name, value in json.loads(text or "{}").items():
                found.setdefault(name, Counter())[value] += number
        return {name: +counts for name, counts in found.items() if counts.total()}

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
        return self.where(~held_out, f"train/{share}"), self.where(held_out, f"eval/{share}")

    def without(self, hashes: np.ndarray[Any, np.dtype[np.uint64]]) -> RowSet:
        """Return the rows whose content is none of these: a stream's later blocks leave out evaluation rows."""
        mark = xxhash.xxh3_64_hexdigest(np.sort(hashes).tobytes())
        return self.where(~np.isin(self.hashes(), hashes), f"without/{mark}")

    def where(self, mask: np.ndarray[Any, np.dtype[np.bool_]], label: str) -> RowSet:
        """Return the rows that a mask of `(len,)` chooses; the label says how, for the fingerprint."""
        return RowSet(self.path, self.positions(mask), f"{self.fingerprint}/{label}", self.stage)

    def positions(self, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return where in the store the rows are that a mask of `(len,)` chooses."""
        own = np.arange(len(mask)) if self._indices is None else self._indices
        chosen: np.ndarray[Any, np.dtype[np.int64]] = own[np.flatnonzero(mask)].astype(np.int64)
        return chosen


def write_store(rows: Iterator[Row], path: Path) -> int:
    """Write rows into `rows.arrow` of an existing folder, and return how many there were."""
    count = 0
    sink = pa.OSFile(str(path / "rows.arrow"), "wb")
    with sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        while chunk := list(islice(rows, _BATCH)):
            count += len(chunk)
            writer.write_batch(_record_batch(chunk))
    return count


def copy_store(folders: Sequence[Path], path: Path) -> int:
    """Write the rows of several stores, one after the other, into one of an existing folder; return how many."""
    count = 0
    with pa.OSFile(str(path / "rows.arrow"), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        for folder in folders:
            with pa.memory_map(str(folder / "rows.arrow")) as file:
                reader = pa.ipc.open_file(file)
                for index in range(reader.num_record_batches):
                    batch = reader.get_batch(index)
                    count += batch.num_rows
                    writer.write_batch(batch)
    return count


def _record_batch(rows: list[Row]) -> pa.RecordBatch:
    values = [encoded(row.values) for row in rows]
    columns = [
        [row.number for row in rows],
        [row.place.source for row in rows],
        [row.place.file for row in rows],
        [row.place.row for row in rows],
        [xxhash.xxh3_64_intdigest(text.encode()) for text in values],
        values,
        [encoded(row.marks) if row.marks else "" for row in rows],
    ]
    return pa.record_batch(columns, schema=_SCHEMA)


def encoded(values: dict[str, Any]) -> str:
    """Return a row's values as JSON that UTF-8 can carry."""
    text = json.dumps(values, ensure_ascii=False, default=str)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can carry and UTF-8 cannot
        return json.dumps(values, default=str)
    return text
