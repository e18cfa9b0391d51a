from __future__ import annotations

import json
import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hfx
from hfx import ColumnType, Plugin, Run, hookimpl
from hfx.errors import IncompatibleError, PluginError
from hfx.order import Order, Position
from hfx_plugins.batching.packing import Packing
from hfx_plugins.batching.packing_fit_impl import best_fit, closing
from hfx_plugins.batching.packing_impl import PackingBatcher

torch.set_num_threads(1)

COLUMNS = {
    "input_ids": ColumnType("list<int32>", 7),
    "labels": ColumnType("list<int32>", -100),
    "weights": ColumnType("list<float32>", 0.5),
}
SMALL = {
    "scratch": {"hidden_size": 32, "layers": 2, "heads": 4},
    "bpe": {"vocab_size": 300},
    "fp32": {},
    "no:progress": {},
}
SHAKESPEARE = (
    "0 0 3 31 22 7 29 19 51 46 64 105 115 147 158 165 165 172 169 159 186 191 199 212 198 169 159 123 108 80 77 83 64 "
    "67 82 84 89 85 88 75 96 104 86 84 71 71 41 45 43 48 29 41 47 45 34 43 45 65 42 43 36 30 39 20 42 31 33 24 27 32 "
    "31 28 31 33 28 33 21 27 24 29 20 14 19 27 20 19 29 12 15 28 18 22 20 19 21 20 18 18 18 12 10 14 16 17 21 18 12 "
    "15 16 16 14 14 13 20 13 13 16 11 15 15 16 7 13 10 15 13 9 14 14 9 7 9 12 11 9 10 8 6 12 9 7 6 2 5 7 8 9 16 7 5 9 "
    "12 8 9 11 10 6 8 6 15 5 9 5 9 6 10 6 12 7 9 1 2 9 4 5 6 3 4 7 5 3 5 4 5 7 4 8 7 5 4 6 5 5 4 2 5 2 3 4 3 4 4 2 3 "
    "8 4 2 4 5 4 3 4 4 5 3 3 3 5 4 3 3 3 6 0 3 4 2 1 2 1 6 1 4 1 2 4 2 4 3 4 0 3 2 2 2 3 3 1 2 5 3 3 4 2 1 0 296 "
)
"""Of tinyshakespeare's paragraphs, cut to 256 tokens of 1,000 kinds: how many have the length 0, 1, 2, ... ."""


def batcher(seq_length: int = 16, window: int = 10_000, shifted: bool = True) -> PackingBatcher:
    return PackingBatcher(COLUMNS, seq_length, window, shifted)


def waste(lengths: Any, seq_length: int) -> float:
    order = np.random.default_rng(0).permutation(lengths).astype(np.int64)
    windows = [order[at : at + 10_000] for at in range(0, len(order), 10_000)]
    packed = [batcher(seq_length).groups(np.arange(len(window)), window) for window in windows]
    return 1 - float(order.sum()) / (sum(map(len, packed)) * seq_length)


# ── which examples share a sequence ──────────────────────────────────────────────────────────────────────────────────


def slow_best_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    bins: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [number for number in range(len(bins)) if room[number] >= lengths[index]]
        if not fitting:
            fitting = [len(bins)]
            bins.append([])
            room.append(capacity)
        best = min(fitting, key=room.__getitem__)
        bins[best].append(index)
        room[best] -= lengths[index]
    return bins


falling = st.lists(st.integers(0, 30), min_size=1, max_size=60).map(lambda lengths: sorted(lengths, reverse=True))


@given(falling, st.integers(30, 70))
def test_best_fit_is_best_fit_decreasing_in_its_plain_form(lengths, capacity):
    found = best_fit(lengths, capacity)
    assert [list(np.flatnonzero(np.array(found) == n)) for n in range(max(found) + 1)] == slow_best_fit(
        lengths, capacity
    )


@given(falling, st.integers(30, 70))
def test_closing_puts_every_example_somewhere_and_no_more_than_fits(lengths, capacity):
    found = closing(lengths, capacity)
    assert len(found) == len(lengths)
    assert sorted(set(found)) == list(range(max(found) + 1))
    assert np.bincount(found, weights=lengths).max() <= capacity


@given(falling, st.integers(30, 70), st.randoms())
def test_there_are_never_more_sequences_than_best_fit_needs_and_they_depend_on_nothing_but_the_window(
    lengths, capacity, random
):
    fewest = max(best_fit(lengths, capacity)) + 1
    random.shuffle(lengths)
    rows, own = np.arange(len(lengths), dtype=np.int64) * 3, np.array(lengths, dtype=np.int64)
    groups = batcher(capacity).groups(rows, own)
    assert len(groups) <= fewest
    assert sorted(np.concatenate(groups).tolist()) == rows.tolist()
    assert all(own[group // 3].sum() <= capacity and group.dtype == np.int64 for group in groups)
    assert [group.tolist() for group in batcher(capacity).groups(rows, own)] == [group.tolist() for group in groups]


def test_sequences_are_closed_exactly_where_best_fit_leaves_holes():
    lengths = [4, 4, 3, 3, 2, 2]
    assert max(best_fit(lengths, 9)) + 1 == 3
    assert [group.tolist() for group in batcher(9).groups(np.arange(6), np.array(lengths))] == [[0, 2, 4], [1, 3, 5]]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 20)), max_size=40))
def test_a_row_drawn_twice_is_packed_twice_and_lengths_of_zero_are_kept(drawn):
    rows, lengths = (np.array([pair[i] for pair in drawn], dtype=np.int64) for i in (0, 1))
    groups = batcher(20).groups(rows, lengths)
    assert Counter(row for group in groups for row in group.tolist()) == Counter(rows.tolist())


def test_an_example_longer_than_a_sequence_is_refused():
    with pytest.raises(PluginError, match="17 positions and 'seq_length' is 16; the task has to"):
        batcher().groups(np.arange(2), np.array([3, 17]))


@pytest.mark.parametrize("sigma", [0.5, 0.6, 0.8, 1.0, 1.2])
def test_lognormal_lengths_of_median_400_waste_at_most_a_quarter_of_a_percent_of_2048(sigma):
    lengths = np.random.default_rng(1).lognormal(np.log(400), sigma, 20_000)
    assert waste(np.clip(lengths, 1, 2048).astype(np.int64), 2048) <= 0.0025


def test_paragraphs_of_tinyshakespeare_waste_at_most_half_a_percent_of_256():
    counts = [int(count) for count in SHAKESPEARE.split()]
    assert waste(np.repeat(np.arange(len(counts)), counts), 256) <= 0.005


# ── how they are laid out ────────────────────────────────────────────────────────────────────────────────────────────


def example(*ids: int) -> dict[str, Any]:
    values = np.array(ids, dtype=np.int32)
    return {"input_ids": values, "labels": values, "weights": values / 2}


def test_positions_restart_with_every_example_and_with_the_padding():
    batch = batcher().collate([[example(1, 2, 3), example(4, 5)], [example(6)], [example(8), example(9)]])
    assert {name: (tensor.dtype, tensor.tolist()) for name, tensor in batch.items()} == {
        "input_ids": (torch.int64, [[1, 2, 3, 4, 5], [6, 7, 7, 7, 7], [8, 9, 7, 7, 7]]),
        "labels": (torch.int64, [[-100, 2, 3, -100, 5], [-100] * 5, [-100] * 5]),
        "weights": (torch.float32, [[0.5, 1, 1.5, 2, 2.5], [3, 0.5, 0.5, 0.5, 0.5], [4, 4.5, 0.5, 0.5, 0.5]]),
        "position_ids": (torch.int64, [[0, 1, 2, 0, 1], [0, 0, 1, 2, 3], [0, 0, 0, 1, 2]]),
    }


def test_first_labels_stay_where_a_label_belongs_to_its_own_position():
    batch = batcher(shifted=False).collate([[example(1, 2), example(3)]])
    assert batch["labels"].tolist() == [[1, 2, 3]]


def test_the_batcher_travels_to_other_processes():
    assert pickle.loads(pickle.dumps(batcher(window=3))) == batcher(window=3)  # noqa: S301


# ── what cannot be packed ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_task_with_a_label_for_each_row_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(IncompatibleError, match="'classification' has one label a row; add '--plugin no:packing'"):
        hfx.train(data=str(tmp_path / "none.jsonl"), plugins=[Packing(), "classification"])


class Counting(Plugin):
    """A task of somebody else."""

    unit: str = "token"
    """Its unit."""
    column: str = "list<int32>"
    """The type of its second column."""

    @hookimpl(wrapper=True)
    def hfx_task(self) -> Any:
        task = yield
        task.unit = self.unit
        task.collated = lambda: {"input_ids": ColumnType("list<int32>"), "score": ColumnType(self.column)}
        return task


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (Counting(unit="pair"), "this one counts by pair; add '--plugin no:packing'"),
        (Counting(column="float32"), "the task's column 'score' has one value an example, which packed"),
    ],
)
def test_a_task_of_another_package_that_cannot_be_packed_is_refused(task, said, make_run, data):
    with pytest.raises(IncompatibleError, match=said):
        make_run(Packing(), task, data=data, plugins=SMALL).order  # noqa: B018


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def data(tmp_path) -> str:
    lines = [json.dumps({"text": " ".join(f"w{n * k}" for k in range(1 + n * 7 % 23))}) for n in range(150)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    return str(tmp_path / "rows.jsonl")


def opened(make_run, data: str, *plugins: Plugin, **fields: Any) -> Run:
    usual = {"data": data, "plugins": SMALL, "seq_length": 64, "batch_size": 4, "epochs": 1, "eval_share": 0.1}
    run: Run = make_run(*plugins, **usual | fields)
    run.build()
    run.output.mkdir(exist_ok=True)
    return run


def test_an_epoch_packed_has_every_row_once_and_the_tokens_of_one_padded(make_run, data):
    seen = {}
    for plugins in ((), (Packing(window=50),)):
        run = opened(make_run, data, *plugins)
        lengths = run.table("train").column("length")
        rows = Counter(int(row) for batch in run.batches() for s in _trained(run, batch) for row in s.rows)
        assert rows == Counter(range(len(lengths)))
        assert run.tokens_total == int(lengths.sum())
        seen[bool(plugins)] = (run.step, run.tokens_total)
    assert seen[True][1] == seen[False][1]
    assert seen[True][0] < 0.6 * seen[False][0]


def _trained(run: Run, batch: Any) -> Any:
    run.train_step(batch)
    return batch.sequences


def test_an_evaluation_is_that_of_a_padded_run(make_run, data):
    padded, packed = opened(make_run, data).evaluate(), opened(make_run, data, Packing()).evaluate()
    assert packed == pytest.approx(padded, rel=1e-6)


def sequences_of(order: Order, start: Position, count: int) -> list[list[int]]:
    batches = order.batches(start)
    return [sequence.rows.tolist() for _ in range(count) for sequence in next(batches).sequences]


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_any_chain_of_resumes_inside_windows_yields_the_same_sequences(window, steps):
    def order() -> Order:
        return Order(Lengths(), lambda _: Shuffled(), batcher(window=window), 3, 7)

    whole = sequences_of(order(), Position(), sum(steps))
    position, found = Position(), []
    for count in steps:
        found += sequences_of(order(), position, count)
        batches = order().batches(position)
        position = [next(batches).next for _ in range(count)][-1]
    assert found == whole


class Lengths:
    """A table of known lengths, which is the only block."""

    fingerprint = "lengths"

    def get(self, index: int) -> Lengths | None:
        return None if index else self

    def __len__(self) -> int:
        return 90

    def column(self, name: str) -> Any:
        return np.arange(90) % 16 + 1


class Shuffled:
    def size(self, epoch: int) -> int:
        return 90

    def rows(self, epoch: int, start: int, stop: int) -> Any:
        return np.random.default_rng(epoch).permutation(90)[start:stop]
