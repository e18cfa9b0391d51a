"""Segments of constant shares, with whole numbers of samples in each that never run away from what is due.

A segment holds whole periods of its weights, so that no group is off at its end by more than at its beginning, or what
is left of them before a change. That rest is due in fractions. They are rounded all together: a group's next sample is
one that some rests may take, namely where the group would be off by one sample at most with it and without it, and a
matching gives each sample its rest. One exists: rests are columns and groups rows of a matrix whose columns and whose
rows' beginnings are two nested families, so all of their sums can be rounded up or down at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STEPS = 64
"""How far a group is off at a change is as little as can be, in steps of this part of a sample; one always can be."""
_SLACK = 1e-9
"""More than the sums of shares are off as floating-point numbers."""


def segments(phases: Mapping[int, Sequence[int]]) -> list[tuple[int, list[int]]]:
    """Return where each segment begins, and its weights: in one that ends, their sum divides its length."""
    starts = sorted(phases)
    found: list[tuple[int, list[int]]] = []
    rests: list[tuple[int, int, list[int]]] = []
    for start, stop in zip(starts, [*starts[1:], None], strict=True):
        divisor = math.gcd(*phases[start])
        weights = [weight // divisor for weight in phases[start]]
        left = 0 if stop is None else (stop - start) % sum(weights)
        if stop is None or stop - start > left:
            found.append((start, weights))
        if stop is not None and left:
            rests.append((stop - left, left, weights))
    return sorted(found + _rounded(rests))


def _rounded(rests: list[tuple[int, int, list[int]]]) -> list[tuple[int, list[int]]]:
    """Return the rests with a whole number of samples for each group, in place of its weight."""
    if not rests:
        return []
    lengths, weights = np.array([[length] for _, length, _ in rests]), np.array([own for _, _, own in rests])
    totals = weights.sum(axis=1, keepdims=True)
    counts, more = np.divmod(lengths * weights, totals)
    room = (lengths - counts.sum(axis=1, keepdims=True)).ravel().tolist()
    best = None
    low, high = _STEPS // 2, _STEPS + 1
    while low < high:
        furthest = (low + high) // 2
        units, allowed = _windows(more / totals, furthest / _STEPS)
        if (taken := _matched(allowed, [*room, len(units) - sum(room)])) is None:
            low = furthest + 1
        else:
            high, best = furthest, list(zip(units, taken, strict=True))
    if best is None:
        raise AssertionError("fractions of shares could not be rounded")
    for group, rest in best:
        if rest < len(rests):
            counts[rest, group] += 1
    return [(start, own) for (start, _, _), own in zip(rests, counts.tolist(), strict=True)]


def _windows(due: NDArray[np.float64], furthest: float) -> tuple[list[int], list[list[int]]]:
    """Return the group of each sample, and the rests that may take it, by the last of them; behind all is 'none'.

    `due` is `(rests, groups)`: what is due in each rest beyond whole samples.
    """
    found: list[tuple[list[int], int]] = []
    for group, column in enumerate(due.T):
        after = np.cumsum(column)
        before = np.r_[0.0, after]
        shared = np.r_[column > 0, True]
        for number in range(1, int(after[-1]) + 2):
            first = int(np.searchsorted(after, number - furthest - _SLACK))
            last = int(np.searchsorted(before, number - 1 + furthest + _SLACK, side="right"))
            found.append(((first + np.flatnonzero(shared[first:last])).tolist(), group))
    found.sort(key=lambda item: (item[0][-1:], item[1]))
    return [group for _, group in found], [window for window, _ in found]


def _matched(allowed: list[list[int]], room: list[int]) -> list[int] | None:
    """Return a column for each unit among those it is allowed, with no column above its room, or None."""
    held: list[list[int]] = [[] for _ in room]
    taken = [-1] * len(allowed)
    for unit, own in enumerate(allowed):
        entering = dict.fromkeys(own, unit)  # who would move into a column, in the order of the search
        todo = list(own)
        for column in todo:
            if len(held[column]) < room[column]:
                break
            for other in held[column]:
                fresh = [there for there in allowed[other] if there not in entering]
                entering.update(dict.fromkeys(fresh, other))
                todo += fresh
        else:
            return None
        while True:
            mover = entering[column]
            column, left = taken[mover], column
            taken[mover] = left
            held[left].append(mover)
            if mover == unit:
                break
            held[column].remove(mover)
    return taken
