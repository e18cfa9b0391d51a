from __future__ import annotations

import itertools
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hfx_plugins.schedules.linear import Linear
from tiny_models import TinyRun

RATIOS = st.floats(0, 1)
WARMUPS = st.one_of(st.floats(0, 0.99), st.integers(1, 500).map(float))
STEPS = st.integers(1, 10_000)


@given(WARMUPS, RATIOS, STEPS, st.data())
def test_every_share_lies_between_its_bounds_and_no_step_learns_nothing(
    warmup: float, ratio: float, total: int, data: st.DataObject
) -> None:
    step = data.draw(st.integers(0, total - 1))

    assert 0 < Linear(warmup=warmup, min_ratio=ratio).share(step, total) <= 1


@given(RATIOS, st.integers(3, 1_000))
def test_after_the_warmup_all_steps_down_are_equal(ratio: float, total: int) -> None:
    plugin = Linear(warmup=0, min_ratio=ratio)
    shares = [plugin.share(step, total) for step in range(total + 1)]

    falls = [high - low for high, low in itertools.pairwise(shares)]

    assert falls == pytest.approx([(1 - ratio) / total] * total, abs=1e-12)
    assert (shares[0], shares[-1]) == (1.0, pytest.approx(ratio))


def test_the_warmup_is_a_line_that_starts_above_zero() -> None:
    assert [Linear(warmup=4).share(step, 100) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_the_schedule_sets_the_rate_of_each_step_and_its_state_is_json() -> None:
    plugin = Linear(warmup=3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = plugin.hfx_schedule(optimizer, TinyRun(total_steps=12))

    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()

    assert rates == [0.5 * plugin.share(step, 12) for step in range(12)]
    assert json.loads(json.dumps(schedule.state_dict())) == schedule.state_dict()
