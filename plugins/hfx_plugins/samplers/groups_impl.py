"""Which group each example belongs to, and the table's indices sorted by group."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hfx_plugins.samplers.cycles_impl import Groups
from hfx_plugins.samplers.stored_impl import folder_of, index_type, stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hfx import Table

VERSION = 1
"""Raised when the stored order of a table's groups is another one than before."""


def labels_of(values: NDArray[Any]) -> tuple[list[Any], NDArray[np.int32]]:
    """Return the different values of a column, sorted (None last), and for each example its value's place there."""
    import pyarrow as pa

    encoded = pa.array(values, from_pandas=True).dictionary_encode(null_encoding="encode")
    found = encoded.dictionary.to_pylist()
    by_value = sorted(range(len(found)), key=lambda i: (found[i] is None, found[i] if found[i] is not None else 0))
    places = np.empty(len(found), dtype=np.int32)
    places[by_value] = np.arange(len(found), dtype=np.int32)
    return [found[i] for i in by_value], places[encoded.indices.to_numpy()]


def groups_of(table: Table, column: str, ids: NDArray[Any], count: int, cache: Path) -> Groups:
    """Return a table's examples by group; what a sort is needed for is sorted once and mapped from the cache."""
    counts = np.bincount(ids, minlength=count).astype(np.int64)
    if (np.diff(ids) >= 0).all():
        return Groups(counts)

    def fill(order: NDArray[Any]) -> None:
        order[:] = np.argsort(ids, kind="stable")

    folder = folder_of(cache, "groups", VERSION, table.fingerprint, column)
    return Groups(counts, stored(folder, "groups", len(ids), index_type(len(ids)), fill))
