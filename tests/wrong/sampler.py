"""Samplers that are wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hfx import Plugin, hookimpl
from hfx_plugins.samplers.shuffle import Shuffled


class RankSampler(Plugin):
    """Every rank has an order of its own."""

    @hookimpl
    def hfx_sampler(self, table: Any, run: Any) -> Any:
        return Shuffled(len(table), run.config.seed + run.world.rank)


class EnvironmentSampler(Plugin):
    """Every rank has an order of its own, by what its launcher says."""

    @hookimpl
    def hfx_sampler(self, table: Any) -> Any:
        import os

        return Shuffled(len(table), int(os.environ.get("RANK", "0")))


@dataclass
class _Chance(Shuffled):
    def rows(self, epoch: int, start: int, stop: int) -> Any:
        import numpy as np

        return np.random.randint(0, self.examples, stop - start)


class ChanceSampler(Plugin):
    """Draws from the random state of the process."""

    @hookimpl
    def hfx_sampler(self, table: Any) -> Any:
        return _Chance(len(table), 0)


@dataclass
class _Local(Shuffled):
    def rows(self, epoch: int, start: int, stop: int) -> Any:
        import numpy as np

        return start + np.random.default_rng(epoch).permutation(stop - start)


class SliceSampler(Plugin):
    """Shuffles the slice it is asked for."""

    @hookimpl
    def hfx_sampler(self, table: Any) -> Any:
        return _Local(len(table), 0)


class FirstBlockSampler(Plugin):
    """Takes every block for the first one."""

    @hookimpl
    def hfx_sampler(self, run: Any) -> Any:
        return Shuffled(len(run.table("train")), 0)


@dataclass
class _Narrow(Shuffled):
    def rows(self, epoch: int, start: int, stop: int) -> Any:
        return super().rows(epoch, start, stop).astype("int32")


class NarrowSampler(Plugin):
    """Returns 32-bit indices."""

    @hookimpl
    def hfx_sampler(self, table: Any) -> Any:
        return replace(_Narrow(len(table), 0))


@dataclass
class _Short(Shuffled):
    def rows(self, epoch: int, start: int, stop: int) -> Any:
        return super().rows(epoch, start, min(stop, self.examples - 1))


class ShortSampler(Plugin):
    """Leaves the last row of an epoch out."""

    @hookimpl
    def hfx_sampler(self, table: Any) -> Any:
        return _Short(len(table), 0)


WRONG = {
    ShortSampler: {
        "an epoch has as many rows as its size",
        "every block gets an order of its own",
    },
    RankSampler: {"rows do not depend on rank or world size", "is the same on any number of ranks"},
    EnvironmentSampler: {"rows do not depend on rank or world size", "is the same on any number of ranks"},
    ChanceSampler: {
        "any slice is that slice of the epoch",
        "the same call returns the same rows",
        "rows do not depend on rank or world size",
        "resumes at every step",
        "is the same on any number of ranks",
    },
    SliceSampler: {
        "any slice is that slice of the epoch",
        "resumes at every step",
        "is the same on any number of ranks",
    },
    FirstBlockSampler: {"every block gets an order of its own"},
    NarrowSampler: {"rows are int64 indices of the table", "every block gets an order of its own"},
}
