"""Every example once an epoch, in the order of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfx import Plugin, hookimpl

if TYPE_CHECKING:
    from hfx import Sampler, Table
    from hfx.protocols import Indices


@dataclass
class InOrder:
    """The table's own order, in every epoch."""

    examples: int

    def size(self, epoch: int) -> int:
        """Return the number of examples."""
        return self.examples

    def rows(self, epoch: int, start: int, stop: int) -> Indices:
        """Return the indices at these positions: the positions themselves."""
        import numpy as np

        return np.arange(start, stop, dtype=np.int64)


class Sequential(Plugin):
    """Every example once an epoch, in the order of the data, never shuffled."""

    @hookimpl
    def hfx_sampler(self, table: Table) -> Sampler:
        return InOrder(len(table))
