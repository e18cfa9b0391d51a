"""Classes in equal shares, or in those that are asked for, however many examples each of them has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeFloat

from hfx import Column, Plugin, hookimpl

if TYPE_CHECKING:
    from hfx import Run, Sampler, Table


class Balanced(Plugin):
    """Every class equally often, whatever its size: rare ones are repeated, or frequent ones thinned out.

    Any prefix of an epoch has each class in its share, to within two samples. Within a class the examples are gone
    through in a random order, then in another, from epoch to epoch, so all are used equally often to within one time.
    Of a stream each block is balanced by itself.
    """

    column: Column = "label"
    """The column of the data that holds the class."""
    mode: Literal["over", "under"] = "over"
    """The length of an epoch: until every example was used at least once (`over`: examples of rare classes are
    repeated), or as long as no class has to be gone through twice (`under`: of frequent classes a part is left for
    later epochs)."""
    shares: dict[str, NonNegativeFloat] | None = None
    """The share of each class by its name, in any unit (`{spam: 1, ham: 3}`; 0 leaves it out); none: all alike."""

    @hookimpl
    def hfx_sampler(self, table: Table, run: Run) -> Sampler:
        from hfx_plugins.samplers.balanced_impl import build

        return build(table, self, run)
