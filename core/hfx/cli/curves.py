"""Curves of many steps made small enough to draw: thinned so that every spike stays, and smoothed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def thinned(values: Numbers, most: int) -> NDArray[np.int64]:
    """Return the places of at most so many values, `(<= most,)`: the lowest and the highest of each stretch.

    The first and the last are among them. Where a stretch has no finite value, one of it stays, so the gap does.

    Args:
        values: The curve, `(steps,)`.
        most: How many to keep, 4 at least.
    """
    count = len(values)
    if count <= most:
        return np.arange(count)
    stretches = (most - 2) // 2
    width = -(-count // stretches)
    padded = _in_stretches(values, stretches, width)
    gaps = ~np.isfinite(padded)
    starts = np.arange(stretches) * width
    lowest = starts + np.where(gaps, np.inf, padded).argmin(axis=1)
    highest = starts + np.where(gaps, -np.inf, padded).argmax(axis=1)
    kept = np.unique(np.concatenate([[0], lowest, highest, [count - 1]]))
    return kept[kept < count]


def means(values: Numbers, most: int) -> Numbers:
    """Return the means of stretches of a curve, `(<= most,)`; NaN for one without a finite value."""
    width = max(1, -(-len(values) // most))
    padded = _in_stretches(values, -(-len(values) // width), width)
    finite = np.isfinite(padded)
    counts = finite.sum(axis=1)
    sums = np.where(finite, padded, 0.0).sum(axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _in_stretches(values: Numbers, stretches: int, width: int) -> Numbers:
    """Return a curve of `(steps,)` as `(stretches, width)`, NaN behind its end."""
    padded = np.full(stretches * width, np.nan)
    padded[: len(values)] = values
    return padded.reshape(stretches, width)


def smoothed(values: Numbers, span: float) -> Numbers:
    """Return the exponential moving average of a curve, unbiased at its beginning; gaps stay gaps.

    Args:
        values: The curve, `(steps,)`.
        span: The steps over which it averages: the newest weighs `2 / (span + 1)`.
    """
    keep = 1 - 2 / (max(1.0, span) + 1)
    result = np.full(len(values), np.nan)
    average = weight = 0.0
    for at, value in enumerate(values.tolist()):
        if math.isfinite(value):
            average = keep * average + (1 - keep) * value
            weight = keep * weight + (1 - keep)
            result[at] = average / weight
    return result


def stretches(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return where a mask of `(steps,)` is true: first and last place of each stretch."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(first), int(after) - 1) for first, after in edges.reshape(-1, 2)]


def column(values: Any) -> Numbers:
    """Return a column of a run's figures as an array, `(steps,)`."""
    return np.asarray(values, dtype=np.float64)
