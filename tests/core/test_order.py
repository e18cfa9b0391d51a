"""The order of samples is a pure function of seed, data, sampler and batcher."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfx.order import GlobalBatch, Order, Position, permute


@dataclass
class ToyTable:
    lengths: np.ndarray[Any, Any]
    fingerprint: str = "toy"

    def __len__(self) -> int:
        return len(self.lengths)

    def column(self, name: str) -> np.ndarray[Any, Any]:
        return {
            "length": self.lengths,
            "units": self.lengths,
            "row": np.arange(len(self.lengths)),
            "part": np.zeros(len(self.lengths), dtype=np.int32),
        }[name]

    def values(self, index: int) -> dict[str, Any]:
        return {"input_ids": np.full(self.lengths[index], index)}


@dataclass(frozen=True)
class ToySampler:
    n: int
    block: int

    def size(self, epoch: int) -> int:
        return self.n

    def rows(self, epoch: int, start: int, stop: int) -> np.ndarray[Any, Any]:
        return permute(self.n, (7, epoch, self.block), np.arange(start, stop))


@dataclass(frozen=True)
class Singly:
    window: int = 1

    def groups(self, rows: Any, lengths: Any) -> list[Any]:
        return [rows[i : i + 1] for i in range(len(rows))]

    def collate(self, sequences: Any) -> Any:
        raise AssertionError("not in these tests")


@dataclass(frozen=True)
class Pairing(Singly):
    """Packs first-fit, which is enough to make bins of different sizes."""

    window: int = 5
    room: int = 12

    def groups(self, rows: Any, lengths: Any) -> list[Any]:
        bins: list[list[int]] = []
        used: list[int] = []
        for row, length in zip(rows, lengths, strict=True):
            fits = next((i for i, u in enumerate(used) if u + length <= self.room), None)
            if fits is None:
                bins.append([])
                used.append(0)
                fits = len(bins) - 1
            bins[fits].append(int(row))
            used[fits] += int(length)
        return [np.array(b, dtype=np.int64) for b in bins]


@dataclass
class ToyBlocks:
    tables: list[ToyTable]

    def get(self, index: int) -> ToyTable | None:
        return self.tables[index] if index < len(self.tables) else None


def order_of(sizes: list[int], batcher: Any, batch_size: int = 4) -> Order:
    rng = np.random.default_rng(0)
    tables = [ToyTable(rng.integers(1, 11, size)) for size in sizes]
    by_id = {id(table): number for number, table in enumerate(tables)}
    return Order(ToyBlocks(tables), lambda t: ToySampler(len(t), by_id[id(t)]), batcher, batch_size, seed=3)


def trace(batches: list[GlobalBatch]) -> list[list[tuple[int, list[int]]]]:
    return [[(s.position.block, s.rows.tolist()) for s in batch.sequences] for batch in batches]


@given(n=st.integers(1, 3000), key=st.tuples(st.integers(0, 2**40), st.integers(0, 9)))
@settings(max_examples=60, deadline=None)
def test_a_permutation_hits_every_number_once(n: int, key: tuple[int, int]) -> None:
    assert sorted(permute(n, key, np.arange(n)).tolist()) == list(range(n))


def test_a_permutation_of_a_billion_is_computed_one_position_at_a_time() -> None:
    found = permute(10**9, (1, 2), np.array([0, 10**9 - 1]))
    assert found.min() >= 0
    assert found.max() < 10**9


def test_permutations_of_two_epochs_differ_and_look_uniform() -> None:
    first, second = (permute(1000, (0, epoch), np.arange(1000)) for epoch in (0, 1))
    assert (first == second).mean() < 0.02
    thirds = np.bincount(first[:500] // 334, minlength=3)
    assert thirds.min() > 120


def test_the_permutation_is_pinned_so_that_old_runs_can_be_resumed() -> None:
    assert permute(10, (0, 0), np.arange(10)).tolist() == [7, 4, 5, 6, 2, 3, 8, 1, 0, 9]


@pytest.mark.parametrize("batcher", [Singly(), Pairing()], ids=["padding", "packing"])
@pytest.mark.parametrize("sizes", [[17], [7, 9, 3]], ids=["one block", "three blocks"])
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_going_on_from_any_batch_gives_the_batches_that_would_have_come(
    data: st.DataObject, sizes: list[int], batcher: Any
) -> None:
    whole = list(islice(order_of(sizes, batcher).batches(Position()), 14))
    stop = data.draw(st.integers(1, 12))
    rest = list(islice(order_of(sizes, batcher).batches(whole[stop - 1].next), 14 - stop))
    assert trace(rest) == trace(whole[stop:])


@pytest.mark.parametrize("batcher", [Singly(), Pairing()], ids=["padding", "packing"])
def test_an_epoch_shows_every_example_once_and_its_last_batch_is_short(batcher: Any) -> None:
    order = order_of([17, 6], batcher)
    steps = order.steps_for_epochs(1)
    batches = list(islice(order.batches(Position()), steps))
    seen = sorted((s.position.block, int(row)) for batch in batches for s in batch.sequences for row in s.rows)
    assert seen == [(0, i) for i in range(17)] + [(1, i) for i in range(6)]
    assert batches[-1].next == Position(1) or not list(order.sequences(batches[-1].next))
    assert sum(len(batch.sequences) for batch in batches) == order.bins_in_epoch(0)


@pytest.mark.parametrize(("epochs", "steps"), [(1.1, 11), (2.2, 22), (0.3, 3), (1.01, 11), (3, 30)])
def test_a_part_of_an_epoch_is_as_many_steps_as_was_typed(epochs: float, steps: int) -> None:
    assert order_of([100], Singly(), batch_size=10).steps_for_epochs(epochs) == steps


@given(size=st.integers(1, 9))
@settings(max_examples=9, deadline=None)
def test_ranks_cut_a_batch_without_loss_or_overlap(size: int) -> None:
    for batch in islice(order_of([13], Singly(), batch_size=5).batches(Position()), 4):
        shares = [batch.share(rank, size) for rank in range(size)]
        assert [s for share in shares for s in share] == batch.sequences


def test_the_order_without_any_example_ends_instead_of_turning_for_ever() -> None:
    assert list(order_of([0], Singly()).batches(Position())) == []


def test_the_steps_for_a_number_of_tokens_are_the_first_that_reach_it() -> None:
    order = order_of([17], Singly())
    steps = order.steps_for_tokens(60)
    counts = [batch.tokens for batch in islice(order.batches(Position()), steps)]
    assert sum(counts[:-1]) < 60 <= sum(counts)


def test_the_ledger_digest_depends_on_rows_and_their_order() -> None:
    first, second = islice(order_of([17], Singly()).batches(Position()), 2)
    swapped = GlobalBatch(first.sequences[::-1], first.next)
    assert len({first.digest(), second.digest(), swapped.digest()}) == 3


def _resumed_chain(data: st.DataObject, sizes: list[int], batcher: Any) -> None:
    """Go on several times in a row, each time on another number of ranks and from a position alone."""
    whole = list(islice(order_of(sizes, batcher).batches(Position()), 14))
    position, done = Position(), 0
    while done < len(whole):
        steps, ranks = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 8))
        replicas = [order_of(sizes, batcher).batches(position) for _ in range(ranks)]
        for _ in range(min(steps, len(whole) - done)):
            batches = [next(replica) for replica in replicas]
            seen = [s for rank, batch in enumerate(batches) for s in batch.share(rank, ranks)]
            assert [(s.position, s.rows.tolist()) for s in seen] == [
                (s.position, s.rows.tolist()) for s in whole[done].sequences
            ]
            position, done = batches[0].next, done + 1


CASES = [pytest.param(100, id="100 chains"), pytest.param(2_500, id="2,500 chains", marks=pytest.mark.slow)]


@pytest.mark.parametrize("chains", CASES)
@pytest.mark.parametrize("batcher", [Singly(), Pairing()], ids=["padding", "packing"])
@pytest.mark.parametrize("sizes", [[17], [7, 9, 3]], ids=["one block", "three blocks"])
def test_any_chain_of_resumes_on_any_ranks_is_the_same_sequence(chains: int, sizes: list[int], batcher: Any) -> None:
    @given(data=st.data())
    @settings(max_examples=chains, deadline=None)
    def check(data: st.DataObject) -> None:
        _resumed_chain(data, sizes, batcher)

    check()


@pytest.mark.parametrize("batcher", [Singly(), Pairing()], ids=["padding", "packing"])
@pytest.mark.parametrize("sizes", [[17], [7, 9, 3]], ids=["one block", "three blocks"])
def test_the_position_of_a_step_is_found_without_the_steps_before_it(sizes: list[int], batcher: Any) -> None:
    whole = list(islice(order_of(sizes, batcher).batches(Position()), 14))
    for step, batch in enumerate(whole, start=1):
        position = order_of(sizes, batcher).position_of_step(step)
        assert trace([next(order_of(sizes, batcher).batches(position))]) == trace([batch])


class _Ones:
    """A column as long as anybody likes, which is never held."""

    def __getitem__(self, index: Any) -> np.ndarray[Any, Any]:
        return np.ones(len(index), dtype=np.int64)


@dataclass
class EndlessTable:
    rows: int
    fingerprint: str = "endless"

    def __len__(self) -> int:
        return self.rows

    def column(self, name: str) -> Any:
        return _Ones()


def test_a_step_far_into_a_trillion_rows_is_found_in_little_time_and_memory() -> None:
    order = Order(ToyBlocks([EndlessTable(10**12)]), lambda t: ToySampler(len(t), 0), Singly(), 8, seed=3)  # type: ignore[list-item]
    tracemalloc.start()
    began = time.perf_counter()
    batch = next(order.batches(order.position_of_step(10**9 // 8)))
    seconds, (_, peak) = time.perf_counter() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len({int(s.rows[0]) for s in batch.sequences}) == 8
    assert peak < 50 * 2**20
    assert seconds < 2  # 0.1 without other work on the machine; see tests/benchmarks
