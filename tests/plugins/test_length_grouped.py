from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfx_plugins.samplers import length_grouped_impl
from hfx_plugins.samplers.length_grouped import LengthGrouped
from sampled import Columns, Sampling, assert_slices_compose, whole

calm = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
lengths = st.lists(st.integers(1, 2_000), min_size=1, max_size=80)


def sampler(cache, values, seed=0, batch_size=4, batches=3):
    table = Columns(length=np.array(values, dtype=np.int32))
    return LengthGrouped(batches=batches).hfx_sampler(table, Sampling(cache, seed, batch_size))


@calm
@given(lengths, st.integers(1, 9), st.integers(1, 5), st.integers(0, 3), st.lists(st.integers(0, 10_000), max_size=4))
def test_an_epoch_is_the_same_however_it_is_cut(tmp_path, values, batch_size, batches, epoch, cuts):
    assert_slices_compose(sampler(tmp_path, values, 0, batch_size, batches), epoch, cuts)


@calm
@given(lengths, st.integers(1, 9), st.integers(1, 5), st.integers(0, 3))
def test_every_example_comes_once_an_epoch(tmp_path, values, batch_size, batches, epoch):
    order = whole(sampler(tmp_path, values, 0, batch_size, batches), epoch)
    assert sorted(order.tolist()) == list(range(len(values)))


def padding(values, order, batch_size):
    batches = values[order][: len(order) // batch_size * batch_size].reshape(-1, batch_size)
    return 1 - batches.sum() / (batches.max(axis=1) * batch_size).sum()


def test_batches_are_alike_in_length_and_come_in_a_random_order(tmp_path):
    values = np.random.default_rng(0).lognormal(5, 0.8, 8_000).astype(np.int32) + 1
    order = whole(sampler(tmp_path, values, batch_size=16, batches=50))
    shuffled = np.random.default_rng(1).permutation(len(values))
    assert padding(values, order, 16) < 0.1 < 0.5 < padding(values, shuffled, 16)
    means = values[order].reshape(-1, 16).mean(axis=1)
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.15
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.15


def test_a_stretch_of_one_batch_is_a_shuffle(tmp_path):
    values = np.arange(4_000)
    order = whole(sampler(tmp_path, values, batch_size=4, batches=1))
    assert np.ptp(order.reshape(-1, 4), axis=1).mean() > 2_000


def test_the_short_batch_is_the_last(tmp_path):
    values = np.arange(1, 23)
    for epoch in range(3):
        order = whole(sampler(tmp_path, values, batch_size=4, batches=2), epoch)
        starts = [values[order[at : at + 4]] for at in range(0, 22, 4)]
        assert [len(batch) for batch in starts] == [4, 4, 4, 4, 4, 2]
        assert all((np.diff(batch) <= 0).all() for batch in starts)


def test_orders_differ_by_seed_and_epoch(tmp_path):
    values = np.arange(60)
    orders = {tuple(whole(sampler(tmp_path, values, seed), epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_the_order_does_not_depend_on_how_much_is_sorted_at_a_time(tmp_path, monkeypatch):
    values = np.random.default_rng(0).integers(1, 100, 500)
    expected = whole(sampler(tmp_path / "whole", values)).tolist()
    monkeypatch.setattr(length_grouped_impl, "_CHUNK", 36)
    assert whole(sampler(tmp_path / "pieces", values)).tolist() == expected


def test_an_epoch_is_mapped_and_not_held(tmp_path):
    order = sampler(tmp_path, np.arange(100))
    whole(order)
    _, table = order._held
    assert isinstance(table.base, np.memmap)


def test_the_order_is_pinned_so_that_old_runs_can_be_resumed(tmp_path):
    order = sampler(tmp_path, [5, 3, 9, 1, 7, 2, 8, 4, 6], seed=1, batch_size=2, batches=2)
    assert whole(order, 2).tolist() == [8, 1, 6, 4, 0, 7, 5, 3, 2]
