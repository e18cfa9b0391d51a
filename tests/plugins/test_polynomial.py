from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hfx_plugins.schedules.linear import Linear
from hfx_plugins.schedules.polynomial import Polynomial
from tiny_models import TinyRun

RATIOS = st.floats(0, 1)
WARMUPS = st.one_of(st.floats(0, 0.99), st.integers(1, 500).map(float))
POWERS = st.floats(0.1, 8)
STEPS = st.integers(1, 10_000)


@given(WARMUPS, POWERS, RATIOS, STEPS, st.data())
def test_every_share_lies_between_its_bounds_and_no_step_learns_nothing(
    warmup: float, power: float, ratio: float, total: int, data: st.DataObject
) -> None:
    step = data.draw(st.integers(0, total - 1))

    assert 0 < Polynomial(warmup=warmup, power=power, min_ratio=ratio).share(step, total) <= 1


@given(POWERS, RATIOS, STEPS, st.data())
def test_without_a_warmup_none_is_below_the_lowest(power: float, ratio: float, total: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, total + 100))

    assert ratio <= Polynomial(warmup=0, power=power, min_ratio=ratio).share(step, total) <= 1


@given(WARMUPS, POWERS, RATIOS, STEPS)
def test_it_rises_then_falls(warmup: float, power: float, ratio: float, total: int) -> None:
    plugin = Polynomial(warmup=warmup, power=power, min_ratio=ratio)
    near = [plugin.share(step, total) for step in range(min(total, 600))]
    top = near.index(max(near))

    assert near[: top + 1] == sorted(near[: top + 1])
    assert near[top:] == sorted(near[top:], reverse=True)


@given(st.integers(1, 500), POWERS, RATIOS, st.integers(1, 5_000))
def test_it_falls_from_where_the_warmup_ends_to_the_lowest_share_exactly(
    warmup: int, power: float, ratio: float, rest: int
) -> None:
    plugin, total = Polynomial(warmup=warmup, power=power, min_ratio=ratio), warmup + rest

    assert plugin.share(warmup - 1, total) == plugin.share(warmup, total) == 1.0
    assert {plugin.share(total, total), plugin.share(total + 7, total)} == {ratio}


@given(WARMUPS, RATIOS, STEPS, st.data())
def test_a_power_of_one_is_the_straight_line(warmup: float, ratio: float, total: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, total))
    plugins = Polynomial(warmup=warmup, power=1, min_ratio=ratio), Linear(warmup=warmup, min_ratio=ratio)

    assert plugins[0].share(step, total) == plugins[1].share(step, total)


def test_the_power_is_that_of_what_is_left() -> None:
    assert Polynomial(warmup=0, power=3, min_ratio=0.2).share(50, 100) == pytest.approx(0.2 + 0.8 / 8)
    assert Polynomial(warmup=0, power=0.5).share(75, 100) == pytest.approx(0.5)


@pytest.mark.parametrize("option", [{"power": 0}, {"warmup": 2.5}, {"min_ratio": -0.1}])
def test_an_option_out_of_range_is_refused(option: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Polynomial(**option)


def test_the_schedule_sets_the_rate_of_each_step_and_its_state_is_json() -> None:
    plugin = Polynomial(warmup=3, power=1.5)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = plugin.hfx_schedule(optimizer, TinyRun(total_steps=12))

    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()

    assert rates == [0.5 * plugin.share(step, 12) for step in range(12)]
    assert json.loads(json.dumps(schedule.state_dict())) == schedule.state_dict()
