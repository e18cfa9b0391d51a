"""An epoch's table of batches that are alike in length, written stretch by stretch."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hfx import permute
from hfx_plugins.samplers.stored_impl import folder_of, index_type, stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hfx import Run, Table
    from hfx.protocols import Indices

VERSION = 1
"""Raised when a stored epoch is another one than before."""
_CHUNK = 1 << 20
"""Examples sorted at a time, so that memory does not grow with the table."""


@dataclass
class LengthOrder:
    """Reads the epoch's table, which is written when it is first asked for."""

    lengths: NDArray[Any]
    batch: int
    batches: int
    seed: int
    folder: Path
    _held: tuple[int, NDArray[Any]] | None = field(default=None, repr=False)

    def size(self, epoch: int) -> int:
        """Return the number of examples."""
        return len(self.lengths)

    def rows(self, epoch: int, start: int, stop: int) -> Indices:
        """Return the indices at these positions."""
        if self._held is None or self._held[0] != epoch:
            size = len(self.lengths)
            order = stored(self.folder, f"epoch-{epoch}", size, index_type(size), partial(self._write, epoch), keep=2)
            self._held = (epoch, order)
        return self._held[1][start:stop].astype(np.int64)

    def _write(self, epoch: int, order: NDArray[Any]) -> None:
        size, stretch = len(self.lengths), self.batch * self.batches
        whole = size // self.batch
        chunk = max(1, _CHUNK // stretch) * stretch
        for start in range(0, size, chunk):
            positions = np.arange(start, min(start + chunk, size), dtype=np.int64)
            rows = permute(size, (self.seed, epoch, 4), positions)
            # The longest first, as one looks for a batch that is too large for memory.
            rows = rows[np.lexsort((-self.lengths[rows].astype(np.int64), positions // stretch))]
            numbers = positions // self.batch
            full = numbers < whole
            moved = np.full(len(positions), whole, dtype=np.int64)  # the short batch stays at the end of the epoch
            moved[full] = permute(whole, (self.seed, epoch, 5), numbers[full])
            order[moved * self.batch + positions % self.batch] = rows


def build(table: Table, batches: int, run: Run) -> LengthOrder:
    """Return the order of a table's examples."""
    batch, seed = run.config.batch_size, run.config.seed
    folder = folder_of(run.cache, "length_grouped", VERSION, table.fingerprint, batch, batches, seed)
    return LengthOrder(table.column("length"), batch, batches, seed, folder)
