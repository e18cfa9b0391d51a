"""What is asked of a sampler and a batcher: pure functions, the same on every rank, that lose nothing."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hfx.protocols import Sampler, Table, World
from hfx.run import Run
from hfx.testing.bench import Bench
from hfx.testing.elastic import ORDER, as_rank

if TYPE_CHECKING:
    from hfx.protocols import Indices

EPOCHS = (0, 1, 2)


class Beginning:
    """The first rows of a table as a table: another block for a sampler."""

    def __init__(self, table: Table, length: int) -> None:
        self._table = table
        self._length = length
        self.fingerprint = f"{table.fingerprint}/{length}"

    def __len__(self) -> int:
        return self._length

    def column(self, name: str) -> Any:
        """Return the beginning of a column."""
        return self._table.column(name)[: self._length]

    def values(self, index: int) -> dict[str, Any]:
        """Return the task's columns of one example."""
        return self._table.values(index)


def _sampler(run: Run, table: Table | None = None) -> Sampler:
    return run.hooks.sampler(table=table or run.table("train"), run=run)


def _epoch(sampler: Sampler, epoch: int) -> Indices:
    return sampler.rows(epoch, 0, sampler.size(epoch))


def rows_are_int64_indices_of_the_table(bench: Bench) -> None:
    """An index outside the table, or of another type, fails in the middle of a run."""
    with bench.run() as run:
        _check_indices(_sampler(run), run.table("train"))


def _check_indices(sampler: Sampler, table: Table) -> None:
    for epoch in EPOCHS:
        rows = _epoch(sampler, epoch)
        assert isinstance(rows, np.ndarray), f"`rows` returns a {type(rows).__name__}; it has to return an array"
        assert rows.dtype == np.int64, f"`rows` returns {rows.dtype}; it has to return int64"
        assert rows.ndim == 1, f"`rows` returns {rows.ndim} dimensions; it has to return one"
        outside = rows[(rows < 0) | (rows >= len(table))]
        assert not len(outside), f"epoch {epoch} draws {outside[0]} from a table of {len(table)} examples"


def an_epoch_has_as_many_rows_as_its_size(bench: Bench) -> None:
    """The run's length is computed from `size`."""
    with bench.run() as run:
        sampler = _sampler(run)
        for epoch in EPOCHS:
            size = sampler.size(epoch)
            assert isinstance(size, int | np.integer), f"`size` returns {size!r}; it has to return a whole number"
            assert size > 0, f"epoch {epoch} draws no example"
            assert len(_epoch(sampler, epoch)) == size, f"epoch {epoch} has another number of rows than its size"


def any_slice_is_that_slice_of_the_epoch(bench: Bench) -> None:
    """A resumed run and every rank begin somewhere in the middle."""
    with bench.run() as run:
        sampler = _sampler(run)
        for epoch in EPOCHS:
            whole = _epoch(sampler, epoch)
            size = len(whole)
            for start, stop in ((0, 1), (1, size), (size // 3, size // 2), (size - 1, size), (size // 2, size // 2)):
                part = sampler.rows(epoch, start, stop)
                assert np.array_equal(part, whole[start:stop]), f"rows {start} to {stop} are others than in the epoch"


def the_same_call_returns_the_same_rows(bench: Bench) -> None:
    """Whatever was asked before, by whichever instance, in whatever random state of the process."""
    with bench.run() as run:
        first = _sampler(run)
        expected = {epoch: _epoch(first, epoch).copy() for epoch in EPOCHS}
        random.seed(99)
        np.random.seed(99)
        torch.manual_seed(99)
        other = _sampler(run)
        for sampler in (first, other):
            for epoch in reversed(EPOCHS):
                assert np.array_equal(_epoch(sampler, epoch), expected[epoch]), f"epoch {epoch} is another one later on"


def rows_do_not_depend_on_rank_or_world_size(bench: Bench) -> None:
    """The order is global; ranks only take their slices of it."""
    with bench.run() as run:
        alone = [_epoch(_sampler(run), epoch) for epoch in EPOCHS]
        for rank, size in ((0, 3), (1, 3), (2, 3), (1, 2)):
            with as_rank(run, World(rank, size, rank)):
                sampler = _sampler(run)
                for epoch, expected in zip(EPOCHS, alone, strict=True):
                    same = np.array_equal(_epoch(sampler, epoch), expected)
                    assert same, f"rank {rank} of {size} has another order than a process alone"


def every_block_gets_an_order_of_its_own(bench: Bench) -> None:
    """The sampler is made anew for each block of a stream, whose tables differ in length."""
    with bench.run() as run:
        table = Beginning(run.table("train"), len(run.table("train")) // 2)
        sampler = _sampler(run, table)
        _check_indices(sampler, table)
        for epoch in EPOCHS:
            assert len(_epoch(sampler, epoch)) == sampler.size(epoch) > 0, "a shorter block has no rows of its own"


SAMPLER = (
    rows_are_int64_indices_of_the_table,
    an_epoch_has_as_many_rows_as_its_size,
    any_slice_is_that_slice_of_the_epoch,
    the_same_call_returns_the_same_rows,
    rows_do_not_depend_on_rank_or_world_size,
    every_block_gets_an_order_of_its_own,
    *ORDER,
)
