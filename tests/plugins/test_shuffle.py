from __future__ import annotations

import pickle

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hfx import RunConfig
from hfx_plugins.samplers.shuffle import Shuffle


class Examples:
    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size


class Seeded:
    def __init__(self, seed):
        self.config = RunConfig(seed=seed)


def sampler(size, seed=0):
    return Shuffle().hfx_sampler(Examples(size), Seeded(seed))


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(0, 5), st.data())
def test_every_example_comes_once_an_epoch_however_it_is_sliced(size, epoch, data):
    order = sampler(size)
    cut = data.draw(st.integers(0, size))
    parts = np.concatenate([order.rows(epoch, 0, cut), order.rows(epoch, cut, order.size(epoch))])
    assert parts.dtype == np.int64
    assert sorted(parts) == list(range(size))
    assert list(parts) == list(order.rows(epoch, 0, size))


def test_the_order_follows_seed_and_epoch_alone():
    orders = {(seed, epoch): tuple(sampler(100, seed).rows(epoch, 0, 100)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(set(orders.values())) == 4
    assert orders[0, 0] != tuple(range(100))
    assert tuple(pickle.loads(pickle.dumps(sampler(100))).rows(0, 0, 100)) == orders[0, 0]  # noqa: S301


def test_nearby_examples_are_spread_over_the_epoch():
    places = np.argsort(sampler(10_000).rows(0, 0, 10_000))
    assert abs(np.corrcoef(places, np.arange(10_000))[0, 1]) < 0.05
    assert np.abs(np.diff(places)).mean() > 2_500
