"""Every example once an epoch, in a random order that is computed and never stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfx import Plugin, hookimpl

if TYPE_CHECKING:
    from hfx import Run, Sampler, Table
    from hfx.protocols import Indices


@dataclass
class Shuffled:
    """A new permutation each epoch, keyed by seed and epoch."""

    examples: int
    seed: int

    def size(self, epoch: int) -> int:
        """Return the number of examples."""
        return self.examples

    def rows(self, epoch: int, start: int, stop: int) -> Indices:
        """Return the indices at these positions, without the ones before them."""
        import numpy as np

        from hfx import permute

        return permute(self.examples, (self.seed, epoch), np.arange(start, stop, dtype=np.int64))


class Shuffle(Plugin):
    """Every example once an epoch, in a new random order each time."""

    @hookimpl
    def hfx_sampler(self, table: Table, run: Run) -> Sampler:
        return Shuffled(len(table), run.config.seed)
