"""Every sampler inside real runs: killed anywhere, gone on in a new process's stead, cut by any number of ranks."""

from __future__ import annotations

from itertools import islice

import pytest

from hfx.testing.tiny import tiny_rows, write_rows
from hfx_plugins.batching.packing import Packing
from hfx_plugins.batching.padding import Padding
from hfx_plugins.models.scratch import Scratch
from hfx_plugins.samplers.balanced import Balanced
from hfx_plugins.samplers.curriculum import Curriculum
from hfx_plugins.samplers.length_grouped import LengthGrouped
from hfx_plugins.samplers.mixture import Mixture
from hfx_plugins.samplers.weighted import Weighted

SAMPLERS = {
    "weighted": Weighted(column="weight"),
    "weighted without replacement": Weighted(column="weight", replacement=False),
    "balanced": Balanced(),
    "balanced under": Balanced(mode="under", shares={"even": 1, "odd": 2}),
    "mixture": Mixture(shares={"few": 1, "many": 1}, changes={50: {"few": 0, "many": 1}, 70: {"few": 5, "many": 1}}),
    "length_grouped": LengthGrouped(batches=3),
    "curriculum": Curriculum(buckets=3),
}
STEPS = 40


@pytest.fixture
def opened(make_run, tmp_path):
    """Return a run of a sampler, made anew at each call, over two small sources."""
    rows = [{**row, "weight": number % 4 + 0.5} for number, row in enumerate(tiny_rows(40))]
    data = {
        "few": str(write_rows(rows[:7], tmp_path / "few.jsonl")),
        "many": str(write_rows(rows[7:], tmp_path / "many.jsonl")),
    }

    def make(sampler, batcher):
        plugins = [sampler, batcher, Scratch(hidden_size=32, layers=1)]
        return make_run(*plugins, data=data, batch_size=5, steps=STEPS, seq_length=64, seed=3)

    return make


def trained_on(run, start):
    return [(batch.next, batch.digest()) for batch in islice(run.order.batches(start), STEPS)]


@pytest.mark.parametrize("batcher", [Padding(), Packing(window=12)], ids=["padding", "packing"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_run_that_goes_on_anywhere_sees_what_it_would_have_seen(opened, name, batcher):
    run = opened(SAMPLERS[name], batcher)
    expected = trained_on(run, run.position)
    assert expected[-1][0].epoch >= 2
    for step in range(1, STEPS, 3):
        fresh = opened(SAMPLERS[name], batcher)
        found = trained_on(fresh, expected[step - 1][0])
        assert found[: STEPS - step] == expected[step:]


@pytest.mark.parametrize("name", SAMPLERS)
def test_any_number_of_ranks_together_see_the_same(opened, name):
    run = opened(SAMPLERS[name], Padding())
    for batch in islice(run.order.batches(run.position), STEPS):
        for size in range(1, 9):
            shares = [batch.share(rank, size) for rank in range(size)]
            assert [sequence for share in shares for sequence in share] == batch.sequences
