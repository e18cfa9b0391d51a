from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfx.errors import DataError
from hfx.testing import Check, plugin_checks
from hfx.testing.tiny import tiny_rows
from hfx_plugins.samplers.curriculum import Curriculum
from sampled import Columns, Sampling, assert_slices_compose, whole

ROWS = [{**row, "day": f"2026-01-{1 + number % 28:02}"} for number, row in enumerate(tiny_rows())]
OPTIONS = [{}, {"column": "day", "descending": True, "buckets": 3}]
CHECKS = [check for options in OPTIONS for check in plugin_checks(Curriculum, options=options, rows=ROWS)]

calm = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
levels = st.lists(st.integers(-3, 3) | st.integers(-(2**40), 2**40), min_size=1, max_size=60)
blocks = st.none() | st.integers(1, 80)


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_curriculum_conforms(check: Check) -> None:
    check()


def sampler(cache, values, seed=0, **options):
    return Curriculum(column="d", **options).hfx_sampler(Columns(d=values), Sampling(cache, seed))


@calm
@given(levels, st.booleans(), blocks, st.integers(0, 3), st.lists(st.integers(0, 10_000), max_size=4))
def test_an_epoch_is_the_same_however_it_is_cut(tmp_path, values, descending, buckets, epoch, cuts):
    assert_slices_compose(sampler(tmp_path, values, descending=descending, buckets=buckets), epoch, cuts)


@calm
@given(levels, st.booleans(), blocks, st.integers(0, 3))
def test_every_example_comes_once_an_epoch(tmp_path, values, descending, buckets, epoch):
    order = sampler(tmp_path, values, descending=descending, buckets=buckets)
    assert sorted(whole(order, epoch).tolist()) == list(range(len(values)))


@calm
@given(levels, st.booleans(), st.integers(0, 3))
def test_without_blocks_the_order_is_that_of_the_column(tmp_path, values, descending, epoch):
    found = np.array(values)[whole(sampler(tmp_path, values, descending=descending), epoch)]
    assert found.tolist() == sorted(values, reverse=descending)


@calm
@given(levels, st.booleans(), st.integers(1, 80), st.integers(0, 3))
def test_blocks_hold_what_the_order_of_the_column_puts_there(tmp_path, values, descending, buckets, epoch):
    found = np.array(values)[whole(sampler(tmp_path, values, descending=descending, buckets=buckets), epoch)]
    expected = sorted(values, reverse=descending)
    edges = [number * len(values) // buckets for number in range(buckets + 1)]
    for start, stop in pairwise(edges):
        assert sorted(found[start:stop].tolist()) == sorted(expected[start:stop])


def test_examples_that_are_alike_come_in_another_order_each_epoch(tmp_path):
    for options in ({}, {"buckets": 4}):
        order = sampler(tmp_path, np.repeat([1, 2, 3, 4], 25), **options)
        assert len({tuple(whole(order, epoch)) for epoch in range(4)}) == 4
        assert whole(order, 0).tolist() != sorted(whole(order, 0).tolist())


def test_the_examples_of_a_block_are_well_mixed(tmp_path):
    order = sampler(tmp_path, np.arange(10_000), buckets=2)
    first = whole(order)[:5_000]
    assert abs(np.corrcoef(first, np.arange(5_000))[0, 1]) < 0.05


def test_without_a_column_it_goes_by_length(tmp_path):
    table = Columns(length=[5, 1, 3])
    assert whole(Curriculum().hfx_sampler(table, Sampling(tmp_path))).tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    "values",
    [["2026-02-01", "2025-12-31", "2026-01-15"], [2.5, -1.0, 0.0], [True, False, False], np.array([9, 1, 2], "u1")],
    ids=["dates", "fractions", "truth values", "bytes"],
)
@pytest.mark.parametrize("descending", [False, True])
def test_it_goes_by_text_and_by_any_number(tmp_path, values, descending):
    found = np.array(values)[whole(sampler(tmp_path, values, descending=descending))]
    assert found.tolist() == sorted(values, reverse=descending)


@pytest.mark.parametrize("values", [[1.0, np.nan], np.array(["a", None], dtype=object)])
def test_an_example_without_a_value_is_named_by_its_row(tmp_path, values):
    with pytest.raises(DataError, match="row 1 has no value in 'd'; mend the data"):
        sampler(tmp_path, values)


def test_the_table_is_sorted_once_for_all_epochs(tmp_path):
    order = sampler(tmp_path, [3, 1, 2])
    for epoch in range(5):
        whole(order, epoch)
    sampler(tmp_path, [3, 1, 2], buckets=2)
    assert sorted(path.name for path in tmp_path.glob("order/*/*.npy")) == ["sorted.npy", "starts.npy"]


def test_the_order_is_pinned_so_that_old_runs_can_be_resumed(tmp_path):
    order = sampler(tmp_path, [5, 3, 9, 1, 7, 2, 8, 4], seed=1, buckets=2)
    assert whole(order, 2).tolist() == [3, 1, 5, 7, 2, 6, 0, 4]
