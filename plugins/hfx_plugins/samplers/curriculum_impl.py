"""The table sorted by a column, and blocks of it shuffled anew each epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hfx.errors import DataError
from hfx_plugins.samplers.cycles_impl import marked, permute_each
from hfx_plugins.samplers.groups_impl import labels_of
from hfx_plugins.samplers.stored_impl import folder_of, index_type, stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hfx import Run, Table
    from hfx.protocols import Indices
    from hfx_plugins.samplers.curriculum import Curriculum

VERSION = 1
"""Raised when a stored array is another one than before."""


@dataclass
class Graded:
    """The sorted table and where its blocks begin: within a block the order is a permutation of the epoch."""

    order: NDArray[Any]
    starts: NDArray[Any]
    seed: int

    def size(self, epoch: int) -> int:
        """Return the number of examples."""
        return len(self.order)

    def rows(self, epoch: int, start: int, stop: int) -> Indices:
        """Return the indices at these positions."""
        positions = np.arange(start, stop, dtype=np.int64)
        block = np.searchsorted(self.starts, positions, side="right") - 1
        begin = self.starts[block].astype(np.int64)
        last = len(self.starts) - 1
        end = np.where(block < last, self.starts[np.minimum(block + 1, last)], len(self.order))
        inside = permute_each(end - begin, (self.seed, epoch, 3), marked(block, block), positions - begin)
        found: Indices = self.order[begin + inside].astype(np.int64)
        return found


def build(table: Table, options: Curriculum, run: Run) -> Graded:
    """Return the order of a table's examples.

    Raises:
        DataError: an example has no value in the column.
    """
    values = _ranked(table, options.column or "length")
    size = len(values)
    kind = index_type(size)
    folder = folder_of(run.cache, "curriculum", VERSION, table.fingerprint, options.column, options.descending)

    def sort(order: NDArray[Any]) -> None:
        # Stable both ways; unsigned or not, a complement turns the order around without overflow.
        order[:] = np.argsort(_turned(values) if options.descending else values, kind="stable")

    order = stored(folder, "sorted", size, kind, sort)
    if options.buckets is not None:
        starts = np.unique(np.arange(options.buckets, dtype=np.int64) * size // options.buckets)
        return Graded(order, starts[starts < size], run.config.seed)
    changes = 1 + np.flatnonzero(np.diff(values[order]))
    starts = stored(folder, "starts", len(changes) + 1, kind, lambda array: _begin(array, changes))
    return Graded(order, starts, run.config.seed)


def _turned(values: NDArray[Any]) -> NDArray[Any]:
    return -values if values.dtype.kind == "f" else ~values


def _begin(starts: NDArray[Any], changes: NDArray[Any]) -> None:
    starts[0], starts[1:] = 0, changes


def _ranked(table: Table, column: str) -> NDArray[Any]:
    """Return the column as numbers: text as its place in the alphabet."""
    values = table.column(column)
    if values.dtype.kind in "biu":
        return values
    if values.dtype.kind == "f":
        missing = np.isnan(values)
    else:
        labels, values = labels_of(values)
        missing = values == len(labels) - 1 if labels and labels[-1] is None else np.zeros(len(values), dtype=bool)
    if missing.any():
        row = int(table.column("row")[int(missing.argmax())])
        raise DataError(f"row {row} has no value in '{column}'; mend the data, or drop such rows")
    return values
