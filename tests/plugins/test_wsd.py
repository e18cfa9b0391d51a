from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import get_wsd_schedule

from hfx_plugins.schedules.wsd import Wsd
from tiny_models import TinyRun

RATIOS = st.floats(0, 1)
WARMUPS = st.one_of(st.floats(0, 0.99), st.integers(1, 500).map(float))
DECAYS = st.one_of(st.floats(0.001, 0.99), st.integers(1, 500).map(float))
SHAPES = st.sampled_from(["linear", "1-sqrt", "cosine"])
STEPS = st.integers(1, 10_000)


@given(WARMUPS, DECAYS, SHAPES, RATIOS, STEPS, st.data())
def test_every_share_lies_between_its_bounds_and_no_step_learns_nothing(
    warmup: float, decay: float, shape: str, ratio: float, total: int, data: st.DataObject
) -> None:
    plugin = Wsd(warmup=warmup, decay=decay, shape=shape, min_ratio=ratio)
    step = data.draw(st.integers(0, total - 1))
    rises = step < (warmup if warmup >= 1 else max(1, warmup * total) + 1)

    assert 0 < plugin.share(step, total) <= 1
    assert rises or plugin.share(step, total) >= ratio


@given(WARMUPS, DECAYS, SHAPES, RATIOS, st.integers(1, 2_000))
def test_it_rises_stays_and_falls(warmup: float, decay: float, shape: str, ratio: float, total: int) -> None:
    plugin = Wsd(warmup=warmup, decay=decay, shape=shape, min_ratio=ratio)
    shares = [plugin.share(step, total) for step in range(total)]
    top = shares.index(max(shares))
    end = total - shares[::-1].index(max(shares))

    assert shares[: top + 1] == sorted(shares[: top + 1])
    assert set(shares[top:end]) == {max(shares)}
    assert shares[end - 1 :] == sorted(shares[end - 1 :], reverse=True)


@given(st.floats(0, 0.5), st.floats(0.001, 0.49), SHAPES, RATIOS, STEPS, st.integers(0, 1_000))
def test_from_the_end_on_it_is_the_lowest_share_exactly(
    warmup: float, decay: float, shape: str, ratio: float, total: int, beyond: int
) -> None:
    plugin = Wsd(warmup=warmup, decay=decay, shape=shape, min_ratio=ratio)
    fell = total > max(1, round(warmup * total)) if warmup else True

    assert plugin.share(total + beyond, total) == ratio or not fell


@given(st.integers(1, 300), st.integers(1, 300), SHAPES, st.integers(0, 3_000))
def test_nothing_jumps_where_one_part_meets_the_next(warmup: int, decay: int, shape: str, stable: int) -> None:
    total = warmup + stable + decay
    shares = [Wsd(warmup=warmup, decay=decay, shape=shape).share(step, total) for step in range(total + 1)]

    assert shares[warmup - 1] == shares[warmup] == shares[warmup + stable] == 1.0
    # The steepest step is the first: one of a line, and the root of one; a cosine's is in the middle.
    falls = {"linear": 1 / decay, "1-sqrt": math.sqrt(1 / decay), "cosine": min(1.0, math.pi / 2 / decay)}
    steepest = max(1 / warmup, falls[shape])
    assert max(abs(high - low) for high, low in itertools.pairwise(shares)) <= steepest + 1e-12


def test_the_shapes_fall_as_their_names_say() -> None:
    linear, root = Wsd(decay=100, shape="linear", min_ratio=0.2), Wsd(decay=100, shape="1-sqrt", min_ratio=0.2)

    assert linear.share(925, 1_000) == pytest.approx(0.2 + 0.8 * 0.75)
    assert root.share(925, 1_000) == pytest.approx(0.2 + 0.8 * 0.5)


@pytest.mark.parametrize("shape", ["linear", "1-sqrt", "cosine"])
def test_a_shape_is_that_of_transformers_by_the_same_name(shape: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_wsd_schedule(
        optimizer, num_warmup_steps=0, num_decay_steps=40, num_training_steps=100, min_lr_ratio=0.1, decay_type=shape
    )
    plugin = Wsd(warmup=0, decay=40, shape=shape, min_ratio=0.1)
    for step in range(100):
        assert plugin.share(step, 100) == pytest.approx(theirs.lr_lambdas[0](step))


def test_a_share_and_a_number_of_steps_can_mean_the_same_fall() -> None:
    by_share, by_steps = Wsd(decay=0.1), Wsd(decay=10)

    assert [by_share.share(step, 100) for step in range(101)] == [by_steps.share(step, 100) for step in range(101)]


def test_a_longer_run_is_the_same_until_the_shorter_one_falls() -> None:
    plugin = Wsd(warmup=10, decay=20)

    assert [plugin.share(step, 100) for step in range(81)] == [plugin.share(step, 900) for step in range(81)]


def test_a_fall_that_begins_within_the_warmup_waits_for_its_end() -> None:
    assert [Wsd(warmup=6, decay=8, shape="linear").share(step, 10) for step in range(5, 11)] == [
        1.0, 1.0, 0.75, 0.5, 0.25, 0.0,
    ]  # fmt: skip


@pytest.mark.parametrize("option", [{"decay": 0}, {"decay": 2.5}, {"shape": "sqrt"}, {"min_ratio": 1.1}])
def test_an_option_out_of_range_is_refused(option: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Wsd(**option)


def test_the_schedule_sets_the_rate_of_each_step_and_its_state_is_json() -> None:
    plugin = Wsd(warmup=3, decay=4)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = plugin.hfx_schedule(optimizer, TinyRun(total_steps=12))

    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()

    assert rates == [0.5 * plugin.share(step, 12) for step in range(12)]
    assert json.loads(json.dumps(schedule.state_dict())) == schedule.state_dict()
