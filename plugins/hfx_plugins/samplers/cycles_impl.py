"""Permutations of many small ranges at once: each group of examples in an order of its own.

`hfx.permute` puts positions through one cipher; here every position has its own range and its own key, so a slice that
touches a thousand classes is still a handful of array operations.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hfx.protocols import Indices

    Words = NDArray[np.uint64]

_ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def permute_each(sizes: Indices, key: tuple[int, ...], marks: Words, positions: Indices) -> Indices:
    """Return where each position goes in a permutation of its own `range(size)`, `(len(positions),)`.

    The permutation of a range is chosen by `key` and the position's mark; all arguments but the key are arrays of one
    length. The cipher is that of `hfx.permute`: a Feistel network over a power of four, walked until it is inside.
    """
    halves = np.maximum(1, (np.frexp((sizes - 1).astype(np.float64))[1] + 1) // 2).astype(np.uint64)
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=8 * _ROUNDS).digest()
    round_keys = np.frombuffer(digest, dtype="<u8")
    values = positions.astype(np.uint64)
    walking = np.flatnonzero(sizes > 1)
    while len(walking):
        shift, mark, current = halves[walking], marks[walking], values[walking]
        mask = (np.uint64(1) << shift) - np.uint64(1)
        left, right = current >> shift, current & mask
        for round_key in round_keys:
            left, right = right, left ^ (mixed(right ^ mixed(mark ^ round_key)) & mask)
        values[walking] = (left << shift) | right
        walking = walking[values[walking] >= sizes[walking].astype(np.uint64)]
    return values.astype(np.int64)


def mixed(x: Words) -> Words:
    """Return the finaliser of splitmix64 of each word."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def marked(groups: Indices, cycles: Indices) -> Words:
    """Return one word for each pair of group and cycle."""
    with np.errstate(over="ignore"):
        return mixed(groups.astype(np.uint64) * _GOLDEN + _GOLDEN) + cycles.astype(np.uint64)


@dataclass
class Groups:
    """The examples of a table by group (class or source), to be drawn from without end."""

    counts: Indices
    """Examples of each group."""
    order: NDArray[Any] | None = None
    """The table's indices sorted by group; None where the table lies that way, so that nothing is held."""

    @cached_property
    def starts(self) -> Indices:
        """Where each group begins in the sorted order."""
        return np.cumsum(self.counts) - self.counts

    def draw(self, key: tuple[int, ...], groups: Indices, draws: Indices) -> Indices:
        """Return the table's index of the so-many-th draw from each group.

        A group is gone through as a whole, then again in another order: after any number of draws, how often two
        examples of a group were drawn differs by one at most.
        """
        sizes = self.counts[groups]
        cycles, positions = draws // sizes, draws % sizes
        places = self.starts[groups] + permute_each(sizes, key, marked(groups, cycles), positions)
        return places if self.order is None else self.order[places].astype(np.int64)
