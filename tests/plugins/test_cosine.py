from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hfx_plugins.schedules.cosine import Cosine
from tiny_models import TinyRun

RATIOS = st.floats(0, 1)
WARMUPS = st.one_of(st.floats(0, 0.99), st.integers(1, 500).map(float))
STEPS = st.integers(1, 10_000)


@given(WARMUPS, RATIOS, STEPS, st.data())
def test_every_share_lies_between_its_bounds_and_no_step_learns_nothing(
    warmup: float, ratio: float, total: int, data: st.DataObject
) -> None:
    step = data.draw(st.integers(0, total - 1))

    share = Cosine(warmup=warmup, min_ratio=ratio).share(step, total)

    assert 0 < share <= 1


@given(WARMUPS, RATIOS, STEPS)
def test_it_rises_then_falls(warmup: float, ratio: float, total: int) -> None:
    plugin = Cosine(warmup=warmup, min_ratio=ratio)
    near = [plugin.share(step, total) for step in range(min(total, 600))]
    top = near.index(max(near))

    assert near[: top + 1] == sorted(near[: top + 1])
    assert near[top:] == sorted(near[top:], reverse=True)


@given(RATIOS, STEPS, st.integers(0, 1_000))
def test_from_the_end_on_it_is_the_lowest_share(ratio: float, total: int, beyond: int) -> None:
    share = Cosine(warmup=0, min_ratio=ratio).share(total + beyond, total)

    assert share == pytest.approx(ratio, abs=1e-12)


def test_a_share_and_a_number_of_steps_can_mean_the_same_warmup() -> None:
    by_share, by_steps = Cosine(warmup=0.1), Cosine(warmup=10)

    assert [by_share.share(step, 100) for step in range(100)] == [by_steps.share(step, 100) for step in range(100)]
    assert by_steps.share(0, 100) == pytest.approx(0.1)
    assert by_steps.share(9, 100) == by_steps.share(10, 100) == 1.0


def test_half_way_down_is_half_of_the_way() -> None:
    assert Cosine(warmup=0, min_ratio=0.2).share(50, 100) == pytest.approx(0.6)
    assert Cosine(warmup=0).share(25, 100) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_a_warmup_of_two_and_a_half_steps_is_refused() -> None:
    with pytest.raises(ValidationError, match="whole number of steps"):
        Cosine(warmup=2.5)


def test_the_schedule_sets_the_rate_of_each_step_and_its_state_is_json() -> None:
    plugin = Cosine(warmup=4, min_ratio=0.1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = plugin.hfx_schedule(optimizer, TinyRun(total_steps=20))

    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()

    assert rates == [0.5 * plugin.share(step, 20) for step in range(20)]
    assert json.loads(json.dumps(schedule.state_dict())) == schedule.state_dict()


def test_a_restored_schedule_goes_on_and_follows_the_length_it_has_now() -> None:
    plugin = Cosine(warmup=2)

    def schedule_of(total: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        return optimizer, plugin.hfx_schedule(optimizer, TinyRun(total_steps=total))

    optimizer, schedule = schedule_of(10)
    for _ in range(6):
        optimizer.step()
        schedule.step()
    later_optimizer, later = schedule_of(40)

    later.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    later_optimizer.step()
    later.step()

    assert later_optimizer.param_groups[0]["lr"] == 0.5 * plugin.share(7, 40)
