from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hfx_plugins.samplers.sequential import Sequential


@given(st.integers(0, 50), st.integers(0, 3))
def test_examples_come_in_the_order_of_the_data_in_every_epoch(size, epoch):
    sampler = Sequential().hfx_sampler(range(size))
    assert sampler.size(epoch) == size
    assert list(sampler.rows(epoch, 0, size)) == list(range(size))
    assert list(sampler.rows(epoch, size // 2, size)) == list(range(size // 2, size))
