from __future__ import annotations

import json

import torch
from hypothesis import given
from hypothesis import strategies as st

from hfx_plugins.schedules.constant import Constant
from tiny_models import TinyRun


@given(st.integers(1, 100), st.integers(1, 1_000), st.integers(0, 1_000))
def test_the_share_is_one_once_the_warmup_is_over(warmup: int, total: int, step: int) -> None:
    share = Constant(warmup=warmup).share(step, total)

    assert share == min(1.0, (step + 1) / warmup)


@given(st.floats(0.0001, 0.99), st.integers(1, 10_000))
def test_a_share_of_any_run_is_at_least_one_step_and_less_than_all(warmup: float, total: int) -> None:
    shares = [Constant(warmup=warmup).share(step, total) for step in (0, total - 1)]

    assert 0 < shares[0] <= shares[1] == 1.0


def test_without_a_warmup_every_step_has_the_whole_rate() -> None:
    assert {Constant(warmup=0).share(step, 10) for step in range(20)} == {1.0}


def test_the_schedule_sets_the_rate_of_each_step_and_its_state_is_json() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = Constant(warmup=2).hfx_schedule(optimizer, TinyRun(total_steps=4))

    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()

    assert rates == [0.25, 0.5, 0.5, 0.5]
    assert json.loads(json.dumps(schedule.state_dict())) == schedule.state_dict()
