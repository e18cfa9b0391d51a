from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import get_inverse_sqrt_schedule

from hfx_plugins.schedules.inverse_sqrt import InverseSqrt
from tiny_models import TinyRun

WARMUPS = st.one_of(st.floats(0, 0.99), st.integers(1, 500).map(float))
TIMESCALES = st.one_of(st.none(), st.integers(1, 20_000))
STEPS = st.integers(1, 10_000)


@given(WARMUPS, TIMESCALES, STEPS, st.integers(0, 20_000))
def test_every_share_is_above_zero_and_at_most_one(warmup: float, timescale: int | None, total: int, step: int) -> None:
    assert 0 < InverseSqrt(warmup=warmup, timescale=timescale).share(step, total) <= 1


@given(WARMUPS, TIMESCALES, STEPS)
def test_it_rises_then_falls(warmup: float, timescale: int | None, total: int) -> None:
    plugin = InverseSqrt(warmup=warmup, timescale=timescale)
    near = [plugin.share(step, total) for step in range(min(total, 600))]
    top = near.index(max(near))

    assert near[: top + 1] == sorted(near[: top + 1])
    assert near[top:] == sorted(near[top:], reverse=True)


@given(st.integers(1, 500), TIMESCALES)
def test_nothing_jumps_where_the_warmup_ends(warmup: int, timescale: int | None) -> None:
    shares = [InverseSqrt(warmup=warmup, timescale=timescale).share(step, 9_999) for step in range(warmup + 50)]

    assert shares[warmup - 1] == shares[warmup] == 1.0
    steepest = max(1 / warmup, 1 - math.sqrt(0.5) if (timescale or warmup) == 1 else 0.5 / (timescale or warmup))
    assert max(abs(high - low) for high, low in itertools.pairwise(shares)) <= steepest + 1e-12


@given(st.integers(1, 500), st.integers(0, 10_000), st.integers(1, 10_000), st.integers(1, 10_000))
def test_with_a_warmup_in_steps_the_length_of_the_run_means_nothing(
    warmup: int, step: int, total: int, other: int
) -> None:
    plugin = InverseSqrt(warmup=warmup)

    assert plugin.share(step, total) == plugin.share(step, other)


@given(st.integers(1, 500), st.integers(0, 10_000))
def test_four_times_the_warmup_is_half_and_any_step_the_root(warmup: int, beyond: int) -> None:
    plugin = InverseSqrt(warmup=warmup)

    assert plugin.share(4 * warmup, 1) == 0.5
    assert plugin.share(warmup + beyond, 1) == pytest.approx(math.sqrt(warmup / (warmup + beyond)))


def test_it_falls_as_that_of_transformers() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_inverse_sqrt_schedule(optimizer, num_warmup_steps=10, timescale=25)
    found = []
    for _ in range(100):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()

    plugin = InverseSqrt(warmup=10, timescale=25)

    assert [plugin.share(step, 100) for step in range(10, 100)] == pytest.approx(found[10:])


def test_without_a_warmup_the_timescale_is_one_step_or_what_is_asked_for() -> None:
    assert [InverseSqrt(warmup=0).share(step, 9) for step in (0, 3)] == [1.0, 0.5]
    assert InverseSqrt(warmup=0, timescale=100).share(300, 9) == 0.5


@pytest.mark.parametrize("option", [{"timescale": 0}, {"warmup": 2.5}])
def test_an_option_out_of_range_is_refused(option: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        InverseSqrt(**option)


def test_the_schedule_sets_the_rate_of_each_step_and_its_state_is_json() -> None:
    plugin = InverseSqrt(warmup=3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = plugin.hfx_schedule(optimizer, TinyRun(total_steps=12))

    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()

    assert rates == [0.5 * plugin.share(step, 12) for step in range(12)]
    assert json.loads(json.dumps(schedule.state_dict())) == schedule.state_dict()
