"""Examples drawn in proportion to weights, from a column of the data or from a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import PositiveInt

from hfx import Column, Plugin, Problem, hookimpl

if TYPE_CHECKING:
    from hfx import Run, Sampler, Table


class Weighted(Plugin):
    """Every example as often as its weight says, with replacement or without.

    With replacement a draw is computed from seed, epoch and position alone. Without, an epoch's order is sorted once
    (Efraimidis and Spirakis) and mapped from the cache: heavy examples tend to come first, and none comes twice.
    Each part of a row that the task splits has the row's weight.
    """

    column: Column | None = None
    """The column of the data that holds the weight: a number from 0 on, and 0 is never drawn."""
    file: str | None = None
    """A file that holds the weights instead, one for each row of the data in the order of reading: `.npy`, or text
    with a number a line."""
    replacement: bool = True
    """Draw each example anew (some come often, some never), or each at most once an epoch."""
    size: PositiveInt | None = None
    """Draws in an epoch (of a stream: in a block's); none: as many as there are examples to draw from."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        if self.column is None and self.file is None:
            yield Problem("'weighted' has no weights; name their column with '--weighted.column', or '--weighted.file'")
        if self.column is not None and self.file is not None:
            yield Problem("'weighted' is given a 'column' and a 'file' of weights; leave one of them out")

    @hookimpl
    def hfx_sampler(self, table: Table, run: Run) -> Sampler:
        from hfx_plugins.samplers.weighted_impl import build

        return build(table, self, run)
