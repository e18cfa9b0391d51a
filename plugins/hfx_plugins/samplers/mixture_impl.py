"""Sources interleaved by their shares, and within a source one epoch of its own after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hfx.errors import ConfigError, DataError
from hfx_plugins.samplers.groups_impl import groups_of
from hfx_plugins.samplers.interleave_impl import Interleaving
from hfx_plugins.samplers.shares_impl import by_name, named_shares, whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hfx import Run, Table
    from hfx.protocols import Indices
    from hfx_plugins.samplers.cycles_impl import Groups
    from hfx_plugins.samplers.mixture import Mixture


@dataclass
class Mixed:
    """The source of a position is computed, and so is the example within the source."""

    sources: Interleaving
    groups: Groups
    samples: int
    seed: int

    def size(self, epoch: int) -> int:
        """Return the number of samples: the same in every epoch."""
        return self.samples

    def rows(self, epoch: int, start: int, stop: int) -> Indices:
        """Return the indices at these positions; an epoch of the run goes on where the one before ended."""
        begin = epoch * self.samples
        found, draws = self.sources.at(np.arange(begin + start, begin + stop, dtype=np.int64))
        return self.groups.draw((self.seed, 6), found, draws)


def build(table: Table, options: Mixture, run: Run) -> Mixed:
    """Return the order of a table's examples.

    Raises:
        ConfigError: a share of a source that does not exist, or the data is a stream.
        DataError: a source has no examples.
    """
    if run.streams:
        raise ConfigError(
            "'mixture' has to reach every source at any time, and a stream is read block by block; read it as 'files'"
        )
    names, ids = _sources(table, run)
    groups = groups_of(table, "source", ids, len(names), run.cache)
    means = _means(table, ids, groups) if options.unit == "token" else np.ones(len(names))
    weights: dict[int, list[int]] = {}
    equal = dict.fromkeys(names, 1.0)
    for position, option, shares in named_shares(options.shares or equal, options.changes):
        given = by_name(shares, names, option, "source")
        _have_examples(given, names, groups.counts)
        weights[position] = whole([float(g / m) for g, m in zip(given, means, strict=True)], names, option)
    first = weights.pop(0)
    return Mixed(Interleaving(first, weights), groups, options.size or len(table), run.config.seed)


def _sources(table: Table, run: Run) -> tuple[list[str], NDArray[Any]]:
    """Return the names of the sources, those without an example last, and the place there of each example's."""
    meta: dict[str, Any] = getattr(table, "meta", None) or getattr(run.table("train"), "meta", {})
    names = list(meta["sources"])
    data = run.config.data
    others = [name for name in sorted(data) if name not in names] if isinstance(data, dict) else []
    return names + others, table.column("source")


def _have_examples(given: Sequence[float], names: Sequence[str], counts: Indices) -> None:
    for name, share, count in zip(names, given, counts, strict=True):
        if share and not count:
            raise DataError(f"the source '{name}' has a share and no examples; look at its path, or give it 0")


def _means(table: Table, ids: NDArray[Any], groups: Groups) -> NDArray[np.float64]:
    """Return the mean length of each source's examples; 1 where it has none, and then it has no share either."""
    sums = np.bincount(ids, weights=table.column("length"), minlength=len(groups.counts))
    found: NDArray[np.float64] = np.where(groups.counts > 0, sums / np.maximum(groups.counts, 1), 1.0)
    return found
