"""Classes interleaved by their shares, and within a class one permutation after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hfx.errors import DataError
from hfx_plugins.samplers.groups_impl import groups_of, labels_of
from hfx_plugins.samplers.interleave_impl import Interleaving
from hfx_plugins.samplers.nothing_impl import Nothing, nothing
from hfx_plugins.samplers.shares_impl import by_name, whole

if TYPE_CHECKING:
    from hfx import Run, Table
    from hfx.protocols import Indices
    from hfx_plugins.samplers.balanced import Balanced
    from hfx_plugins.samplers.cycles_impl import Groups


@dataclass
class BalancedOrder:
    """The class of a position is computed, and so is the example within the class."""

    classes: Interleaving
    groups: Groups
    drawn: Indices
    """How many examples of each class an epoch draws."""
    seed: int

    def size(self, epoch: int) -> int:
        """Return the number of draws: the same in every epoch."""
        return int(self.drawn.sum())

    def rows(self, epoch: int, start: int, stop: int) -> Indices:
        """Return the indices at these positions; a class goes on where the epoch before left it."""
        found, draws = self.classes.at(np.arange(start, stop, dtype=np.int64))
        return self.groups.draw((self.seed, 2), found, draws + epoch * self.drawn[found])


def build(table: Table, options: Balanced, run: Run) -> BalancedOrder | Nothing:
    """Return the order of a table's examples; of a stream's block there may be none to draw.

    Raises:
        DataError: there are no examples, or one has no class.
        ConfigError: shares of classes that the data does not have, or of some classes only.
    """
    if not len(table):
        if run.streams:
            return nothing(options.name, "it has no examples")
        raise DataError("there are no examples to balance; look at what the task drops")
    labels, ids = labels_of(table.column(options.column))
    if labels[-1] is None:
        place = int(table.column("row")[int(np.argmax(ids == len(labels) - 1))])
        raise DataError(f"row {place} has no class in '{options.column}'; mend the data, or drop such rows")
    names = [_name(label) for label in labels]
    groups = groups_of(table, options.column, ids, len(labels), run.cache)
    shares = options.shares
    if shares is not None and run.streams:  # one block need not have every class
        shares = {name: share for name, share in shares.items() if name in names}
        if not any(shares.values()):
            return nothing(options.name, "the classes that it has are given no share")
    return balance(groups, names, shares, options.mode, run.config.seed)


def _name(label: Any) -> str:
    return str(label).lower() if isinstance(label, bool) else str(label)


def balance(
    groups: Groups, names: list[str], shares: Mapping[str, float] | None, mode: str, seed: int
) -> BalancedOrder:
    """Return the order of groups in these shares; the length of an epoch follows from `mode`."""
    given = by_name(shares, names, "balanced.shares", "class") if shares is not None else [1.0] * len(names)
    weights = whole(given, names, "balanced.shares")
    classes = Interleaving(weights)
    used = np.array(weights) > 0
    counts, parts = groups.counts[used], np.array(weights, dtype=np.float64)[used] / sum(weights)
    # The shares alone give the length to within a few samples of the rarest share; which one it is, is looked up.
    ideal = int((counts / parts).max() if mode == "over" else (counts / parts).min())
    slack = int(np.ceil(3 / parts.min())) + 2
    low, high = max(1, ideal - slack), ideal + slack
    while low < high:
        middle = (low + high) // 2
        drawn = classes.counts(middle)[used]
        reached = (drawn >= counts).all() if mode == "over" else (drawn > counts).any()
        low, high = (low, middle) if reached else (middle + 1, high)
    size = low if mode == "over" else max(1, low - 1)
    return BalancedOrder(classes, groups, classes.counts(size), seed)
