from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfx.errors import DataError, StorageError
from hfx.testing import Check, plugin_checks
from hfx.testing.tiny import tiny_rows
from hfx_plugins.samplers.weighted import Weighted
from hfx_plugins.samplers.weighted_impl import logarithm, uniforms
from sampled import Columns, Sampling, assert_slices_compose, whole

ROWS = [{**row, "weight": number % 5} for number, row in enumerate(tiny_rows())]
OPTIONS = [{}, {"replacement": False}, {"size": 7}]
CHECKS = [
    check
    for options in OPTIONS
    for check in plugin_checks(Weighted, options={"column": "weight", **options}, rows=ROWS)
]

calm = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
weights = st.lists(st.floats(0, 1e6) | st.sampled_from([0.0, 5e-324, 1e308]), min_size=1, max_size=60).filter(any)


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_weighted_conforms(check: Check) -> None:
    check()


def sampler(cache, values, seed=0, **options):
    return Weighted(column="w", **options).hfx_sampler(Columns(w=values), Sampling(cache, seed))


@calm
@given(weights, st.booleans(), st.integers(0, 3), st.lists(st.integers(0, 10_000), max_size=4))
def test_an_epoch_is_the_same_however_it_is_cut(tmp_path, values, replacement, epoch, cuts):
    assert_slices_compose(sampler(tmp_path, values, replacement=replacement), epoch, cuts)


@calm
@given(weights, st.integers(0, 3))
def test_without_replacement_every_example_with_a_weight_comes_once(tmp_path, values, epoch):
    order = whole(sampler(tmp_path, values, replacement=False), epoch)
    assert sorted(order.tolist()) == [place for place, weight in enumerate(values) if weight > 0]


@calm
@given(weights)
def test_a_weight_of_zero_is_never_drawn(tmp_path, values):
    order = sampler(tmp_path, values, size=500)
    assert (np.array(values)[whole(order)] > 0).all()


def test_draws_are_in_proportion_to_the_weights(tmp_path):
    values = np.array([0.5, 1, 2, 0, 4])
    counts = np.bincount(whole(sampler(tmp_path, values, size=200_000)), minlength=5) / 200_000
    assert counts == pytest.approx(values / values.sum(), abs=0.005)


def test_the_first_draw_without_replacement_is_in_proportion_too(tmp_path):
    values = np.array([1.0, 2, 5])
    order = sampler(tmp_path, values, replacement=False)
    firsts = np.bincount([order.rows(epoch, 0, 1)[0] for epoch in range(600)], minlength=3) / 600
    assert firsts == pytest.approx(values / 8, abs=0.07)


def test_a_table_of_more_than_two_to_the_24_rows_is_drawn_from_to_its_end(tmp_path):
    values = np.zeros(2**24 + 1000)
    values[-500:] = 1
    order = sampler_of_large(tmp_path, values)
    found = order.rows(3, 10**9, 10**9 + 1000)
    assert found.min() >= len(values) - 500
    assert len(np.unique(found)) > 300


def sampler_of_large(cache, values):
    table = Columns(w=[0], row=[0])
    table._columns, table._length = {"w": values, "row": values}, len(values)
    return Weighted(column="w", size=2 * 10**9).hfx_sampler(table, Sampling(cache))


def test_draws_differ_by_seed_and_epoch(tmp_path):
    values = np.ones(50)
    for replacement in (True, False):
        orders = {
            tuple(whole(sampler(tmp_path, values, seed, replacement=replacement), epoch))
            for seed in (0, 1) for epoch in (0, 1)
        }  # fmt: skip
        assert len(orders) == 4


def test_the_draws_are_pinned_so_that_old_runs_can_be_resumed(tmp_path):
    assert sampler(tmp_path, np.arange(10)).rows(1, 3, 11).tolist() == [7, 8, 5, 9, 7, 7, 9, 8]
    assert whole(sampler(tmp_path, np.arange(10), replacement=False), 1).tolist() == [9, 8, 6, 7, 1, 4, 5, 2, 3]


@given(st.floats(5e-324, 1.7e308))
def test_the_logarithm_is_that_of_the_library_to_the_last_bits(x):
    assert logarithm(np.array([x]))[0] == pytest.approx(np.log(x), rel=2e-15, abs=1e-15)


@given(st.integers(0, 2**40), st.integers(0, 9), st.integers(0, 9))
def test_numbers_belong_to_their_positions(start, length, cut):
    cut = min(cut, length)
    together = uniforms(1, 2, 0, start, start + length).tolist()
    apart = [uniforms(1, 2, 0, start, start + cut), uniforms(1, 2, 0, start + cut, start + length)]
    assert np.concatenate(apart).tolist() == together
    assert all(0 < number < 1 for number in together)


@pytest.mark.parametrize(
    ("values", "what"),
    [([1, -2, 3], "row 1 has a negative weight in the column 'w'"), ([1, 2, np.nan], "row 2 has no weight"),
     ([np.inf, 1], "row 0 has an infinite weight"), ([0, 0], "no example has a weight above 0"),
     (["1", "2"], "the column 'w' holds '1', and a weight is a number")],
)  # fmt: skip
def test_weights_that_cannot_be_used_are_refused_in_one_line(tmp_path, values, what):
    with pytest.raises(DataError, match=what) as caught:
        sampler(tmp_path, values)
    assert "\n" not in str(caught.value)


def test_more_draws_than_examples_need_replacement(tmp_path):
    with pytest.raises(DataError, match=r"'weighted\.size' is 4, and 2 examples have a weight above 0"):
        sampler(tmp_path, [1, 0, 1], size=4, replacement=False)


def from_file(tmp_path, file, rows=(0, 1, 1, 3), read=4, streams=False):
    run = Sampling(tmp_path / "cache", read=read, streams=streams)
    return Weighted(file=str(file), size=4_000).hfx_sampler(Columns(row=list(rows)), run)


@pytest.mark.parametrize("suffix", ["txt", "npy"])
def test_a_file_has_a_weight_for_each_row_and_parts_of_a_row_inherit_it(tmp_path, suffix):
    file = tmp_path / f"weights.{suffix}"
    if suffix == "npy":
        np.save(file, np.array([0, 1, 9, 2], dtype=np.float32))
    else:
        file.write_text("0\n1\n9\n2\n")
    counts = np.bincount(whole(from_file(tmp_path, file)), minlength=4) / 4_000
    assert counts == pytest.approx([0, 0.25, 0.25, 0.5], abs=0.03)


@pytest.mark.parametrize(
    ("text", "what"),
    [("1\n2\n3\n", "has 3 weights, and the data has 4 rows"), ("1\nx\n", "holds what is no weight: .*'x'"),
     ("", "has 0 weights"), ("1\n-1\n1\n1\n", "row 1 has a negative weight in '")],
)  # fmt: skip
def test_a_file_that_does_not_fit_the_data_is_refused(tmp_path, text, what):
    file = tmp_path / "weights.txt"
    file.write_text(text)
    with pytest.raises(DataError, match=what):
        from_file(tmp_path, file)


def test_a_file_that_is_missing_or_of_another_shape_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the weights in '.*none\.txt': No such file"):
        from_file(tmp_path, tmp_path / "none.txt")
    np.save(tmp_path / "flat.npy", np.ones((2, 2)))
    with pytest.raises(DataError, match=r"a float64 array of \(2, 2\)"):
        from_file(tmp_path, tmp_path / "flat.npy")


def test_a_stream_may_go_on_behind_its_block_but_not_behind_the_file(tmp_path):
    file = tmp_path / "weights.txt"
    file.write_text("1\n" * 6)
    assert from_file(tmp_path, file, rows=(4, 5), streams=True).size(0) == 4_000
    with pytest.raises(DataError, match="has 6 weights, and the data goes on"):
        from_file(tmp_path, file, rows=(5, 6), streams=True)


@pytest.mark.parametrize("rows", [(0, 1), ()])
def test_of_a_block_of_a_stream_with_nothing_to_draw_nothing_is_drawn(tmp_path, rows):
    file = tmp_path / "weights.txt"
    file.write_text("0\n0\n1\n1\n")
    order = from_file(tmp_path, file, rows=rows, streams=True)
    assert order.size(0) == 0
    assert order.fingerprint() == from_file(tmp_path, file).fingerprint()


def test_a_changed_file_gives_another_order(tmp_path):
    file = tmp_path / "weights.txt"
    file.write_text("1\n0\n0\n0\n")
    assert set(whole(from_file(tmp_path, file, rows=(0, 1, 2, 3))).tolist()) == {0}
    file.write_text("0\n0\n0\n1\n")
    assert set(whole(from_file(tmp_path, file, rows=(0, 1, 2, 3))).tolist()) == {3}


def test_weights_are_named_once(tmp_path):
    run = Sampling(tmp_path)
    assert [problem.message for problem in Weighted(column="w").hfx_check(run)] == []
    (problem,) = Weighted().hfx_check(run)
    assert "name their column with '--weighted.column'" in problem.message
    (problem,) = Weighted(column="w", file="f").hfx_check(run)
    assert "leave one of them out" in problem.message


def test_only_the_tables_of_the_last_epochs_are_kept(tmp_path):
    order = sampler(tmp_path, np.arange(1, 20), replacement=False)
    before = [whole(order, epoch).tolist() for epoch in range(5)]
    assert sorted(path.name for path in tmp_path.glob("order/*/epoch-*")) == ["epoch-3.npy", "epoch-4.npy"]
    assert [whole(order, epoch).tolist() for epoch in range(5)] == before


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "order").write_text("a file where a folder has to be")
    with pytest.raises(StorageError, match=r"cannot write the order of samples to .*: Not a directory; set"):
        sampler(tmp_path, [1, 2])
