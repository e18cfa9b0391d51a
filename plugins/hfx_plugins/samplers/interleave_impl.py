"""Which group comes at which position, so that every group has its share of every prefix: computed, never stored.

The groups hang in a Huffman tree of their weights. At each of its nodes the side with the larger deficit comes next,
which for two sides has a closed form: after `m` samples the left one had `round(m * share)`. So a position is found in
as many steps as the tree is deep, without a table or a start-up. A node is off by half a sample and its part of what
the node above it is off. In a Huffman tree a node weighs at least as much as its child and its child's child together,
so the nodes above a group weigh at least 1, 2, 3, 5, 8 ... times what it weighs, and a group is never further from its
share than `1/2 (1 + 1 + 1/2 + 1/3 + 1/5 + 1/8 + ...) < 1.68` samples.

Where the weights change, every segment between two changes holds a whole number of samples of each group, by which no
group is off by more than one sample at a change (see `interleave_changes_impl.py`). Within a segment, what a group is
off goes in a straight line from the one to the other, and the tree adds its 1.68: less than 2.68 for any changes.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from hfx_plugins.samplers.interleave_changes_impl import segments

if TYPE_CHECKING:
    from hfx.protocols import Indices

UNITS = 65_536
"""Shares that are no fractions of a small common denominator are rounded to this."""
_FINEST = 1 << 20
"""The largest sum of weights: a position of 10^12 times it still fits 63 bits."""


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
    """Nodes from the root on: weight of the left side, of both, and the two children."""

    left: Indices
    total: Indices
    children: Indices
    """`(nodes, 2)`: a node, or `-1 - group`."""


def _tree(weights: Sequence[int]) -> _Tree:
    """Return the Huffman tree of the groups that have a weight; equally heavy ones are joined from the last on."""
    heap = [(weight, -1 - group) for group, weight in enumerate(weights) if weight]
    if len(heap) == 1:
        heap.append((0, heap[0][1]))
    heapq.heapify(heap)
    made: list[tuple[int, int, int, int]] = []
    while len(heap) > 1:
        (light, right), (heavy, left) = heapq.heappop(heap), heapq.heappop(heap)
        made.append((heavy, light + heavy, left, right))
        heapq.heappush(heap, (light + heavy, len(made) - 1))
    table = np.array(made[::-1], dtype=np.int64)  # the root was made last
    children = table[:, 2:]
    children[children >= 0] = len(made) - 1 - children[children >= 0]
    return _Tree(table[:, 0], table[:, 1], children)


def _left_of(tree: _Tree, nodes: Indices, samples: Indices) -> Indices:
    """Return how many of a node's first samples went left."""
    found: Indices = (samples * tree.left[nodes] + tree.total[nodes] // 2) // tree.total[nodes]
    return found


class Interleaving:
    """Groups in the proportions of their weights, from position 0 without end; the weights may change on the way."""

    def __init__(self, weights: Sequence[int], changes: Mapping[int, Sequence[int]] | None = None) -> None:
        found = segments({0: weights, **(changes or {})})
        self._starts = np.array([start for start, _ in found], dtype=np.int64)
        self._trees = [_tree(own) for _, own in found]
        spans = np.diff(self._starts).tolist()
        taken = [[span // sum(own) * weight for weight in own] for span, (_, own) in zip(spans, found, strict=False)]
        self._before: Indices = np.cumsum([[0] * len(weights), *taken], axis=0, dtype=np.int64)

    def at(self, positions: Indices) -> tuple[Indices, Indices]:
        """Return the group at each position, and how many samples of it there were before."""
        groups, draws = np.empty_like(positions), np.empty_like(positions)
        phases = np.searchsorted(self._starts, positions, side="right") - 1
        for phase in np.unique(phases):
            here = np.flatnonzero(phases == phase)
            found, count = _walk(self._trees[phase], positions[here] - self._starts[phase])
            groups[here], draws[here] = found, count + self._before[phase][found]
        return groups, draws

    def counts(self, samples: int) -> Indices:
        """Return how many of the first samples each group has."""
        phase = int(np.searchsorted(self._starts, samples, side="right")) - 1
        tree, found = self._trees[phase], np.array(self._before[phase], dtype=np.int64)
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
