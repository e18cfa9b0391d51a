"""Batches of examples of similar length, in a random order: little padding without packing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import PositiveInt

from hfx import Plugin, Problem, hookimpl

if TYPE_CHECKING:
    from hfx import Run, Sampler, Table


class LengthGrouped(Plugin):
    """Every example once an epoch, in batches of similar length that come in a random order.

    An epoch is shuffled, cut into stretches of many batches, each stretch sorted by length and cut into batches, and
    the batches are shuffled: sorted once an epoch and mapped from the cache.
    """

    batches: PositiveInt = 50
    """Batches in a stretch: with more, the examples of a batch are more alike in length, and less random."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        if any(active.name == "packing" for active in run.active):
            yield Problem("'packing' leaves no padding for 'length_grouped' to save; drop one of them", fatal=False)

    @hookimpl
    def hfx_sampler(self, table: Table, run: Run) -> Sampler:
        from hfx_plugins.samplers.length_grouped_impl import build

        return build(table, self.batches, run)
