"""Which group comes at which position, so that every group has its share of every prefix: computed, never stored.

The groups hang in a binary tree whose sides weigh about the same. At each of its nodes the side with the larger deficit
comes next, which for two sides has a closed form: after `m` samples the left one had `round(m * share)`. So a position
is found in as many steps as the tree is deep, without a table or a start-up, and its error is bounded: a node is off by
half a sample at most, of which its children inherit their part, and no inner side weighs more than two thirds of its
node, so no group is ever further than two samples from its share: `1/2 (1 + 1 + 2/3 + 4/9 + ...) = 2`.

Where the weights change, a group begins with a debt: how far it is above its share. A node works it off by letting one
side wait. Two samples then are no proven bound any more: they held in all trials with up to eight groups; with thirty
groups and forty changes of everything it was three.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from hfx import permute

if TYPE_CHECKING:
    from hfx.protocols import Indices

UNITS = 65_536
"""Shares that are no fractions of a small common denominator are rounded to this."""
_FINEST = 1 << 20
"""The largest sum of weights: a position of 10^12 times it still fits 63 bits."""
_ARRANGEMENTS, _LOOKAHEAD, _FURTHEST = 32, 2_048, 1.5


def weights_of(shares: Sequence[float]) -> list[int]:
    """Return shares as whole numbers: exactly where they have a common denominator up to 2^20, else in 65,536ths.

    Raises:
        ValueError: a share rounds to nothing; its argument is the share's place.
    """
    exact = [Fraction(str(share)) for share in shares]
    total = sum(exact)
    exact = [share / total for share in exact]
    common = math.lcm(*(share.denominator for share in exact))
    if common <= _FINEST:
        return [int(share * common) for share in exact]
    found = [math.floor(share * UNITS) for share in exact]
    by_rest = sorted(range(len(exact)), key=lambda i: found[i] - exact[i] * UNITS)
    for place in by_rest[: UNITS - sum(found)]:
        found[place] += 1
    for place, share in enumerate(exact):
        if share and not found[place]:
            raise ValueError(place)
    return found


@dataclass
class _Tree:
    """Nodes in preorder: weight of the left side, of both, what is added before rounding, and the two children."""

    left: Indices
    total: Indices
    added: Indices
    children: Indices
    """`(nodes, 2)`: a node, or `-1 - group`."""


def _halves(groups: list[int], weights: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the groups cut where the two sides differ least."""
    sums = np.cumsum([weights[group] for group in groups])
    cut = 1 + int(np.abs(2 * sums[:-1] - sums[-1]).argmin())
    return groups[:cut], groups[cut:]


def _settled(weights: Sequence[int], debts: Sequence[Fraction]) -> _Tree:
    """Return a tree that keeps all groups close to their shares although they begin off them.

    Debts of opposite signs cancel on one side of a node, and add up apart: of some arrangements the best is taken.
    """
    heaviest = sorted(range(len(weights)), key=lambda group: (-weights[group], group))
    if not any(debts):
        return _tree(weights, debts, heaviest)
    best, least = None, math.inf
    for turn in range(_ARRANGEMENTS):
        order = heaviest if not turn else [heaviest[i] for i in permute(len(weights), (turn,), np.arange(len(weights)))]
        tree = _tree(weights, debts, order)
        furthest = _furthest(tree, weights, debts)
        if furthest < least:
            best, least = tree, furthest
        if least <= _FURTHEST:
            break
    if best is None:
        raise AssertionError("no arrangement was tried")
    return best


def _furthest(tree: _Tree, weights: Sequence[int], debts: Sequence[Fraction]) -> float:
    """Return how far any group gets from its share while the debts are worked off."""
    groups, _ = _walk(tree, np.arange(_LOOKAHEAD, dtype=np.int64))
    taken = np.cumsum(groups[:, None] == np.arange(len(weights)), axis=0)
    due = np.arange(1, _LOOKAHEAD + 1)[:, None] * (np.array(weights, dtype=np.float64) / sum(weights))
    return float(np.abs(taken - due + np.array([float(debt) for debt in debts])).max())


def _tree(weights: Sequence[int], debts: Sequence[Fraction], order: Sequence[int]) -> _Tree:
    """Return the tree of groups of these weights; a debt is how far its group is above its share when it begins."""
    scale = max(1, _FINEST // sum(weights))
    rows: list[tuple[int, int, int]] = []
    children: list[list[int]] = []
    todo = [([group for group in order if weights[group]], -1, 0)]
    while todo:
        groups, parent, side = todo.pop()
        node = len(rows) if len(groups) > 1 else -1 - groups[0]
        if parent >= 0:
            children[parent][side] = node
        if len(groups) == 1:
            continue
        left, right = _halves(groups, weights)
        a, b = (sum(weights[group] for group in part) for part in (left, right))
        debt = sum((debts[group] for group in left), Fraction()) * b - sum(debts[group] for group in right) * a
        rows.append((a * scale, (a + b) * scale, math.floor(scale * (Fraction(a + b, 2) - debt))))
        children.append([0, 0])
        todo += [(left, node, 0), (right, node, 1)]
    if not rows:  # one group alone
        (only,) = (group for group, weight in enumerate(weights) if weight)
        rows, children = [(1, 1, 0)], [[-1 - only, -1 - only]]
    table = np.array(rows, dtype=np.int64)
    return _Tree(table[:, 0], table[:, 1], table[:, 2], np.array(children, dtype=np.int64))


def _left_of(tree: _Tree, nodes: Indices, samples: Indices) -> Indices:
    """Return how many of a node's first samples went left; a debt from before delays a side, and no more than that."""
    wanted = (samples * tree.left[nodes] + tree.added[nodes]) // tree.total[nodes]
    found: Indices = np.clip(wanted, 0, samples)
    return found


class Interleaving:
    """Groups in the proportions of their weights, from position 0 without end; the weights may change on the way."""

    def __init__(self, weights: Sequence[int], changes: Mapping[int, Sequence[int]] | None = None) -> None:
        phases = {0: weights, **(changes or {})}
        self._starts = np.array(sorted(phases), dtype=np.int64)
        self._trees: list[_Tree] = []
        self._before: list[Indices] = []
        drawn, due = np.zeros(len(weights), dtype=np.int64), [Fraction()] * len(weights)
        last = 0
        for start in self._starts.tolist():
            if start:
                drawn = self.counts(start)
                own, span = phases[last], start - last
                due = [d + Fraction(span * w, sum(own)) for d, w in zip(due, own, strict=True)]
            debts = [int(n) - d for n, d in zip(drawn, due, strict=True)]
            self._trees.append(_settled(phases[start], debts))
            self._before.append(drawn)
            last = start

    def at(self, positions: Indices) -> tuple[Indices, Indices]:
        """Return the group at each position, and how many samples of it there were before."""
        groups, draws = np.empty_like(positions), np.empty_like(positions)
        # While the object is made, positions may lie behind the last phase so far.
        phases = np.searchsorted(self._starts[: len(self._trees)], positions, side="right") - 1
        for phase in np.unique(phases):
            here = np.flatnonzero(phases == phase)
            found, count = _walk(self._trees[phase], positions[here] - self._starts[phase])
            groups[here], draws[here] = found, count + self._before[phase][found]
        return groups, draws

    def counts(self, samples: int) -> Indices:
        """Return how many of the first samples each group has."""
        phase = int(np.searchsorted(self._starts[: len(self._trees)], samples, side="right")) - 1
        tree, found = self._trees[phase], self._before[phase].copy()
        held = np.zeros(len(tree.total), dtype=np.int64)
        held[0] = samples - self._starts[phase]
        for node in range(len(held)):
            left = _left_of(tree, np.array([node]), held[node : node + 1])[0]
            for child, count in zip(tree.children[node], (left, held[node] - left), strict=True):
                if child >= 0:
                    held[child] = count
                else:
                    found[-1 - child] += count
        return found


def _walk(tree: _Tree, samples: Indices) -> tuple[Indices, Indices]:
    """Return the group of each sample and its number within the group, going down from the root."""
    nodes, counts = np.zeros(len(samples), dtype=np.int64), samples.copy()
    inside = np.arange(len(samples))
    while len(inside):
        at, count = nodes[inside], counts[inside]
        left = _left_of(tree, at, count)
        right = (_left_of(tree, at, count + 1) == left).astype(np.int64)
        nodes[inside] = tree.children[at, right]
        counts[inside] = np.where(right, count - left, left)
        inside = inside[nodes[inside] >= 0]
    return -1 - nodes, counts
