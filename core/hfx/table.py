"""The prepared table: examples as memory-mapped Arrow, one record batch a chunk of rows, read without copying."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hfx.arrow import as_array
from hfx.cache import reading

CARRIED = "carried.arrow"
"""The raw columns that plugins name, one value an example: beside the table, where a task may use the same name."""
DROPPED = "dropped.jsonl"
"""The rows that the task made no example of: number, place and reason."""
FIXED = {"row": "int64", "part": "int32", "length": "int32", "units": "int32", "source": "int32"}


class ArrowTable:
    """A prepared block on disk; see `protocols.Table`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path):
            meta = json.loads((path / "table.json").read_text())
            self.fingerprint: str = meta["fingerprint"]
        self.meta: dict[str, Any] = meta
        self._columns: dict[str, np.ndarray[Any, Any]] = {}

    @cached_property
    def _batches(self) -> list[pa.RecordBatch]:
        with reading(self.path):
            reader = pa.ipc.open_file(pa.memory_map(str(self.path / "table.arrow")))
            return [reader.get_batch(i) for i in range(reader.num_record_batches)]

    def open(self) -> None:
        """Map the files now: what removes them later takes nothing from who has them open."""
        _ = self._batches, self._carried

    @cached_property
    def _starts(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.cumsum([0, *(batch.num_rows for batch in self._batches)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def dropped(self) -> Iterator[dict[str, Any]]:
        """Yield the rows that the task made no example of: number, place and reason."""
        with reading(self.path), (self.path / DROPPED).open() as file:
            yield from map(json.loads, file)

    @cached_property
    def _carried(self) -> pa.Table:
        path = self.path / CARRIED
        with reading(self.path):
            return pa.ipc.open_file(pa.memory_map(str(path))).read_all() if path.exists() else pa.table({})

    def column(self, name: str) -> np.ndarray[Any, Any]:
        """Return a scalar column, `(len,)`; of a raw one and a task's with the same name the raw one."""
        if name not in self._columns:
            held = self._carried if name in self._carried.column_names and name not in FIXED else None
            parts = (
                [as_array(chunk) for chunk in held.column(name).chunks]
                if held is not None
                else [as_array(batch.column(name)) for batch in self._batches]
            )
            self._columns[name] = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        return self._columns[name]

    def values(self, index: int) -> dict[str, Any]:
        """Return the task's columns of one example; lists as arrays that point into the mapped file."""
        at = int(np.searchsorted(self._starts, index, side="right")) - 1
        batch, local = self._batches[at], int(index - self._starts[at])
        return {name: _value(batch.column(name), local) for name in self.meta["task_columns"]}

    def widths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the length of each example's longest list, `(len,)`; its positions where it has no list."""
        parts: list[np.ndarray[Any, Any]] = []
        for batch in self._batches:
            widest = as_array(batch.column("length")).astype(np.int64)
            for name in self.meta["task_columns"]:
                column = batch.column(name)
                if isinstance(column, pa.ListArray):
                    widest = np.maximum(widest, np.diff(as_array(column.offsets)))
            parts.append(widest)
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def flat(self, name: str, most: int) -> np.ndarray[Any, Any]:
        """Return the values of a column of lists one after another, at most so many, `(<= most,)`."""
        parts: list[np.ndarray[Any, Any]] = []
        for batch in self._batches:
            parts.append(as_array(batch.column(name).values)[:most])  # `flatten` imports pyarrow's functions first
            most -= len(parts[-1])
            if most <= 0:
                break
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _value(column: pa.Array, index: int) -> Any:
    if isinstance(column, pa.ListArray):
        start, stop = column.offsets[index].as_py(), column.offsets[index + 1].as_py()
        return as_array(column.values.slice(start, stop - start))
    return column[index].as_py()
