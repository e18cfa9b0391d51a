"""Data sets and samplers of torch over hfx's tables and orders, for `hfx.bridge`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from hfx.errors import ConfigError, nearest
from hfx.loop import collate
from hfx.order import Position, Sequence

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hfx import protocols
    from hfx.protocols import Batch
    from hfx.run import Run

_STRETCH = 4096
"""Examples asked of a sampler at a time."""


class Table:
    """The columns of a script's data set, as samplers read them."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows
        first = rows[0] if len(rows) else {}
        self._names = list(getattr(rows, "column_names", None) or (first if hasattr(first, "keys") else ()))

    @property
    def fingerprint(self) -> str:
        """Hash of the content: the data set's own, or of all rows."""
        own = getattr(self._rows, "_fingerprint", None)
        if own:
            return f"dataset/{own}"
        digest = hashlib.sha256()
        for index in range(len(self._rows)):
            digest.update(repr(self._rows[index]).encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    def column(self, name: str) -> NDArray[Any]:
        """Return a scalar column `(len,)`; `length` is that of `input_ids` where there is no such column.

        Raises:
            ConfigError: the data set has no such column.
        """
        if name in self._names:
            return np.asarray(self._values(name))
        if name == "length" and "input_ids" in self._names:
            return np.asarray([len(ids) for ids in self._values("input_ids")])
        if name in ("row", "part", "source"):
            return np.arange(len(self)) if name == "row" else np.zeros(len(self), dtype=np.int64)
        hint = nearest(name, self._names) or f" it has {', '.join(self._names) or 'none that has a name'}"
        raise ConfigError(f"the data set has no column '{name}';{hint}")

    def values(self, index: int) -> protocols.Values:
        """Return a row."""
        return dict(self._rows[index])

    def _values(self, name: str) -> list[Any]:
        if hasattr(self._rows, "column_names"):
            return list(self._rows[name])
        return [self._rows[index][name] for index in range(len(self._rows))]


class Epoch:
    """A number that the workers of a data loader see change, those that stay from epoch to epoch, too."""

    def __init__(self) -> None:
        self._value = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set(self, epoch: int) -> None:
        """Choose the epoch."""
        self._value.fill_(epoch)

    def get(self) -> int:
        """Return the epoch."""
        return int(self._value)


class RowSampler(Sampler[int]):
    """Indices in the order of a sampler of hfx, epoch by epoch."""

    def __init__(self, order: protocols.Sampler) -> None:
        self._order = order
        self._epoch = Epoch()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch."""
        self._epoch.set(epoch)

    def __len__(self) -> int:
        return self._order.size(self._epoch.get())

    def __iter__(self) -> Iterator[int]:
        epoch, size = self._epoch.get(), len(self)
        for start in range(0, size, _STRETCH):
            yield from self._order.rows(epoch, start, min(start + _STRETCH, size)).tolist()


class InOrder(IterableDataset[Any]):
    """A data set in the order of a sampler: the Trainer takes no sampler, and iterates over this as it is."""

    def __init__(self, rows: Any, order: Sampler[int], batch: int) -> None:
        self._rows, self._order, self._batch = rows, order, batch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch."""
        self._order.set_epoch(epoch)  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self._order)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        return (self._rows[index] for index in _of_worker(iter(self._order), self._batch))


class Sequences(IterableDataset[Sequence]):
    """The sequences of an epoch of a run."""

    def __init__(self, run: Run, batch: int) -> None:
        self._run, self._batch = run, batch
        self._epoch = Epoch()
        run.table("train")

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch."""
        self._epoch.set(epoch)

    def __len__(self) -> int:
        return self._run.order.bins_in_epoch(self._epoch.get())

    def __iter__(self) -> Iterator[Sequence]:
        every = self._run.order.sequences(Position(self._epoch.get()))
        return _of_worker((sequence for sequence, _ in every), self._batch)


class Examples(Dataset[Sequence]):
    """The rows of a table, each a sequence of its own."""

    def __init__(self, table: protocols.Table) -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Sequence:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return Sequence(Position(0, 0, index, 0), self._table, np.array([index]))


class Collate:
    """Makes a batch of sequences, by the batcher of a run; what a task draws anew is keyed by their positions."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __call__(self, sequences: list[Sequence]) -> Batch:
        return collate(self._run, sequences)


def _of_worker(items: Iterator[Any], batch: int) -> Iterator[Any]:
    """Return a data loader's worker its share, whole batches, which the loader takes from one worker after another."""
    info = get_worker_info()
    if info is None:
        return items
    every = info.num_workers * batch
    return (item for index, item in enumerate(items) if index % every // batch == info.id)
