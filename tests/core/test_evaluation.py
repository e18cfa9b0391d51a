"""An evaluation: which rows share a batch, and that its figures are those of the rows one by one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hfx import World
from hfx.evaluation import batches, evaluate
from hfx.resolve import resolve
from hfx.run import Run
from overfitting import config, rows

WIDTHS = st.lists(st.integers(1, 40), max_size=60)


@given(WIDTHS, st.integers(1, 200), st.integers(1, 20))
def test_each_row_is_in_one_batch_that_holds_no_more_than_it_may(widths: list[int], positions: int, most: int) -> None:
    found = batches(np.array(widths, dtype=np.int64), positions, most)
    assert sorted(int(row) for part in found for row in part) == list(range(len(widths)))
    for part in found:
        assert len(part) <= most
        assert len(part) == 1 or len(part) * max(widths[row] for row in part) <= positions


@given(WIDTHS, st.integers(1, 200), st.integers(1, 20))
def test_a_batch_ends_only_where_another_row_has_no_room(widths: list[int], positions: int, most: int) -> None:
    found = batches(np.array(widths, dtype=np.int64), positions, most)
    for part, following in pairwise(found):
        wider = widths[following[0]]
        assert len(part) == most or (len(part) + 1) * wider > positions


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("evaluation")
    made = Run(resolve(mapping=config(rows(folder), seq_length=64)), folder / "run", World())
    made.build()
    return made


def test_the_loss_is_that_of_the_rows_one_by_one(run: Run) -> None:
    table, total = run.table("eval"), 0.0
    run.module.eval()
    with torch.no_grad():
        for row in range(len(table)):
            values = run.task.draw(table.values(row), np.random.default_rng(0))
            total += float(run.module(run.batcher.collate([[values]])))
    units = int(table.column("units").sum())
    assert evaluate(run)["eval_loss"] == pytest.approx(total / units, rel=1e-6)
    assert run.module.training


def test_short_rows_share_large_batches_and_the_size_of_a_micro_batch_changes_nothing_but_last_bits(run: Run) -> None:
    seen: list[int] = []
    hook = run.model.register_forward_pre_hook(
        lambda _, __, given: seen.append(len(given["input_ids"])), with_kwargs=True
    )
    before = evaluate(run)
    largest = max(seen)
    assert largest > run.micro_batch_size
    run.micro_batch_size = 1
    seen.clear()
    after = evaluate(run)
    hook.remove()
    run.micro_batch_size = run.config.micro_batch_size
    assert max(seen) < largest
    assert after == pytest.approx(before, rel=1e-6)
