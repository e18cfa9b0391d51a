"""What the tests of samplers share: a table of columns in memory, what they read of a run, and properties of orders."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from hfx import RunConfig


class Columns:
    """A table that is its columns."""

    def __init__(self, sources: tuple[str, ...] = (), **columns: Any) -> None:
        self._columns = {name: np.asarray(values) for name, values in columns.items()}
        self._length = len(next(iter(self._columns.values())))
        self._columns.setdefault("row", np.arange(self._length))
        self.meta = {"sources": list(sources)}
        content = repr([(name, values.tolist()) for name, values in sorted(self._columns.items())])
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()

    def __len__(self) -> int:
        return self._length

    def column(self, name: str) -> np.ndarray[Any, Any]:
        return self._columns[name]


class Sampling:
    """What samplers read of a run."""

    def __init__(
        self, cache: Path, seed: int = 0, batch_size: int = 4, data: Any = None, read: int = 0, streams: bool = False
    ) -> None:
        self.cache = cache
        self.config = RunConfig(seed=seed, batch_size=batch_size, data=data)
        self.streams = streams
        self.active = ()
        self._read = read

    def rows(self, split: str) -> Any:
        return SimpleNamespace(report=SimpleNamespace(read=self._read))


def whole(sampler: Any, epoch: int = 0) -> np.ndarray[Any, Any]:
    """Return an epoch."""
    return sampler.rows(epoch, 0, sampler.size(epoch))


def assert_slices_compose(sampler: Any, epoch: int, cuts: list[int]) -> None:
    """Assert that an epoch cut anywhere is the same epoch."""
    size = sampler.size(epoch)
    expected = whole(sampler, epoch)
    edges = [0, *sorted(cut % (size + 1) for cut in cuts), size]
    parts = [sampler.rows(epoch, *edges[i : i + 2]) for i in reversed(range(len(edges) - 1))][::-1]
    found = np.concatenate(parts)
    assert found.dtype == np.int64
    assert found.tolist() == expected.tolist()


def furthest(groups: np.ndarray[Any, Any], shares: np.ndarray[Any, Any]) -> float:
    """Return how many samples any group is away from its share of any prefix; `shares` is `(groups,)` or by sample."""
    taken = np.cumsum(groups[:, None] == np.arange(shares.shape[-1]), axis=0)
    due = np.cumsum(np.broadcast_to(shares, taken.shape), axis=0)
    return float(np.abs(taken - due).max())
