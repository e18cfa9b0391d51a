"""Weighted draws: by position with replacement, by one sort an epoch without."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hfx.errors import DataError
from hfx_plugins.samplers.nothing_impl import nothing
from hfx_plugins.samplers.stored_impl import folder_of, index_type, stored
from hfx_plugins.samplers.weights_impl import file_hash, weights_in_column, weights_in_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hfx import Run, Table
    from hfx.protocols import Indices, Sampler
    from hfx_plugins.samplers.weighted import Weighted

VERSION = 1
"""Raised when a stored array is another one than before."""
_CHUNK = 1 << 20
_TERMS = 23
"""The highest power of the series of the logarithm: exact to the last bits."""
_EACH = 4
"""Words that Philox yields for one value of its counter."""


def uniforms(seed: int, epoch: int, use: int, start: int, stop: int) -> NDArray[np.float64]:
    """Return numbers in (0, 1) that belong to these positions of an epoch, `(stop - start,)`."""
    first = start // _EACH
    key = np.array([seed % 2**64, epoch], dtype=np.uint64)
    bits = np.random.Philox(key=key, counter=np.array([first, use, 0, 0], dtype=np.uint64))
    words = bits.random_raw(stop - first * _EACH)[start - first * _EACH :]
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def logarithm(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the natural logarithm of positive numbers, by operations that IEEE 754 defines to the bit.

    `numpy.log` differs in its last bit from one kind of processor to another, and so could the order of a run.
    """
    fraction, exponent = np.frexp(x)
    low = fraction < 0.7071067811865476
    fraction, exponent = np.where(low, 2 * fraction, fraction), exponent - low
    s = (fraction - 1) / (fraction + 1)
    square, series = s * s, np.zeros_like(x)
    for power in range(_TERMS, 0, -2):
        series = series * square + 2 / power
    found: NDArray[np.float64] = exponent * 0.6931471805599453 + s * series
    return found


@dataclass
class Drawn:
    """With replacement: each position has a number of its own, looked up among the summed weights."""

    sums: NDArray[np.float64]
    draws: int
    seed: int
    content: str = ""
    """Hash of the file of weights."""

    def fingerprint(self) -> str:
        """Return what decides the order beside data and options."""
        return self.content

    def size(self, epoch: int) -> int:
        """Return the number of draws."""
        return self.draws

    def rows(self, epoch: int, start: int, stop: int) -> Indices:
        """Return the indices at these positions, each found in as many steps as the table's length has digits."""
        wanted = uniforms(self.seed, epoch, 0, start, stop) * self.sums[-1]
        found: Indices = np.searchsorted(self.sums, wanted, side="right").astype(np.int64)
        return found


@dataclass
class Once:
    """Without replacement: the examples in the order of `log(u) / weight`, the largest first."""

    weights: NDArray[np.float64]
    draws: int
    seed: int
    folder: Path
    content: str = ""
    """Hash of the file of weights."""
    _held: tuple[int, NDArray[Any]] | None = field(default=None, repr=False)

    def fingerprint(self) -> str:
        """Return what decides the order beside data and options."""
        return self.content

    def size(self, epoch: int) -> int:
        """Return the number of draws."""
        return self.draws

    def rows(self, epoch: int, start: int, stop: int) -> Indices:
        """Return the indices at these positions from the epoch's table, which is sorted when it is first asked for."""
        if self._held is None or self._held[0] != epoch:
            count = len(self.weights)
            fill = partial(self._sort, epoch)
            order = stored(self.folder, f"epoch-{epoch}", self.draws, index_type(count), fill, keep=2)
            self._held = (epoch, order)
        return self._held[1][start:stop].astype(np.int64)

    def _sort(self, epoch: int, order: NDArray[Any]) -> None:
        keys = np.empty(len(self.weights))
        for start in range(0, len(keys), _CHUNK):
            stop = min(start + _CHUNK, len(keys))
            # In logarithms, so that the smallest weights are still told apart.
            drawn = logarithm(-logarithm(uniforms(self.seed, epoch, 1, start, stop)))
            weights = self.weights[start:stop]
            keys[start:stop] = np.where(weights > 0, drawn - logarithm(np.where(weights > 0, weights, 1.0)), np.inf)
        order[:] = np.argsort(keys, kind="stable")[: len(order)]


def build(table: Table, options: Weighted, run: Run) -> Sampler:
    """Return the order of a table's examples.

    Raises:
        DataError: weights that cannot be used, or fewer examples than the epoch is to draw without replacement.
    """
    if not len(table):
        if run.streams:
            return nothing(options.name, "it has no examples", file_hash(options.file) if options.file else "")
        raise DataError("there are no examples to draw from; look at what the task drops")
    identity: list[Any] = ["weighted", VERSION, table.fingerprint, options.column]
    if options.file is not None:
        weights = weights_in_file(table, options.file, run)
        identity.append(content := file_hash(options.file))
    else:
        content = ""
        weights = weights_in_column(table, str(options.column))
    if not weights.any():
        if run.streams:
            return nothing(options.name, "no example has a weight above 0", content)
        where = f"in '{options.file}'" if options.file else f"in the column '{options.column}'"
        raise DataError(f"no example has a weight above 0 {where}; there is nothing to draw")
    if options.replacement:
        folder = folder_of(run.cache, *identity)
        sums = stored(folder, "sums", len(weights), np.float64, partial(_sum_up, weights))
        return Drawn(sums, options.size or len(table), run.config.seed, content)
    positive = int(np.count_nonzero(weights))
    draws = options.size or positive
    if draws > positive and not run.streams:
        raise DataError(
            f"'weighted.size' is {draws}, and {positive} examples have a weight above 0; "
            f"lower it, or draw with '--weighted.replacement true'"
        )
    draws = min(draws, positive)
    return Once(weights, draws, run.config.seed, folder_of(run.cache, *identity, draws, run.config.seed), content)


def _sum_up(weights: NDArray[np.float64], sums: NDArray[np.float64]) -> None:
    # Only proportions matter, and the sum of huge weights must not overflow.
    np.cumsum(weights / weights.max(), out=sums)
