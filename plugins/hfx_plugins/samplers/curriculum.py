"""Examples from easy to hard: in the order of a column, or of their length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import PositiveInt

from hfx import Column, Plugin, hookimpl

if TYPE_CHECKING:
    from hfx import Run, Sampler, Table


class Curriculum(Plugin):
    """Every example once an epoch, in the order of a column; examples that are alike in it come in a random order.

    The order by the column is sorted once and mapped from the cache; what is random in it is computed for each epoch.
    """

    column: Column | None = None
    """The column of the data to go by: numbers or text (dates, as `2026-01-31`); none: the example's length."""
    descending: bool = False
    """Begin with the largest."""
    buckets: PositiveInt | None = None
    """Cut the order into this many blocks of the same size, and shuffle inside each; none: keep to the column."""

    @hookimpl
    def hfx_sampler(self, table: Table, run: Run) -> Sampler:
        from hfx_plugins.samplers.curriculum_impl import build

        return build(table, self, run)
