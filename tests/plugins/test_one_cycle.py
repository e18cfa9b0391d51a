from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hfx_plugins.schedules.one_cycle import OneCycle
from tiny_models import TinyRun

RATIOS = st.floats(0, 1)
WARMUPS = st.one_of(st.floats(0, 0.99), st.integers(1, 500).map(float))
STEPS = st.integers(1, 10_000)


@given(WARMUPS, RATIOS, RATIOS, STEPS, st.integers(0, 20_000))
def test_every_share_lies_between_its_bounds(warmup: float, start: float, ratio: float, total: int, step: int) -> None:
    share = OneCycle(warmup=warmup, start_ratio=start, min_ratio=ratio).share(step, total)

    assert min(start, ratio) <= share <= 1


@given(WARMUPS, RATIOS, RATIOS, STEPS, st.data())
def test_no_step_learns_nothing(warmup: float, start: float, ratio: float, total: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, total - 1))

    assert OneCycle(warmup=warmup, start_ratio=start, min_ratio=ratio).share(step, total) > 0


@given(WARMUPS, RATIOS, RATIOS, STEPS)
def test_it_rises_then_falls(warmup: float, start: float, ratio: float, total: int) -> None:
    plugin = OneCycle(warmup=warmup, start_ratio=start, min_ratio=ratio)
    near = [plugin.share(step, total) for step in range(min(total, 600))]
    top = near.index(max(near))

    assert near[: top + 1] == sorted(near[: top + 1])
    assert near[top:] == sorted(near[top:], reverse=True)


@given(st.integers(1, 500), RATIOS, RATIOS, st.integers(1, 5_000))
def test_nothing_jumps_and_it_ends_exactly_at_the_lowest_share(
    warmup: int, start: float, ratio: float, rest: int
) -> None:
    plugin, total = OneCycle(warmup=warmup, start_ratio=start, min_ratio=ratio), warmup + rest
    shares = [plugin.share(step, total) for step in range(total + 2)]

    assert shares[warmup - 1] == shares[warmup] == 1.0
    assert shares[-2:] == [ratio, ratio]
    # Half a cosine is nowhere steeper than half of pi over its length.
    steepest = math.pi / 2 * max((1 - start) / warmup, (1 - ratio) / rest)
    assert max(abs(high - low) for high, low in itertools.pairwise(shares)) <= steepest + 1e-12


@pytest.mark.parametrize(("warmup", "rest"), [(1, 9), (30, 70), (50, 1)])
def test_both_halves_are_those_of_torch(warmup: int, rest: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=warmup + rest + 1, pct_start=(warmup + 1) / (warmup + rest + 1),
        cycle_momentum=False, div_factor=25, final_div_factor=1e4,
    )  # fmt: skip
    found = []
    for _ in range(warmup + rest + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(found) <= warmup + rest:
            theirs.step()

    shares = [OneCycle(warmup=warmup).share(step, warmup + rest) for step in range(warmup + rest + 1)]

    # Torch's first step is at the lowest rate; here the rise begins before it, as with every other schedule.
    assert shares[:warmup] == pytest.approx(found[1 : warmup + 1])
    assert shares[warmup:] == pytest.approx(found[warmup:])


def test_the_momentum_stays() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5, momentum=0.8)
    schedule = OneCycle(warmup=3).hfx_schedule(optimizer, TinyRun(total_steps=12))

    seen = set()
    for _ in range(12):
        seen.add(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        schedule.step()

    assert seen == {0.8}


@pytest.mark.parametrize("option", [{"start_ratio": 1.5}, {"min_ratio": -0.1}, {"warmup": 2.5}])
def test_an_option_out_of_range_is_refused(option: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        OneCycle(**option)


def test_the_schedule_sets_the_rate_of_each_step_and_its_state_is_json() -> None:
    plugin = OneCycle(warmup=3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = plugin.hfx_schedule(optimizer, TinyRun(total_steps=12))

    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()

    assert rates == [0.5 * plugin.share(step, 12) for step in range(12)]
    assert json.loads(json.dumps(schedule.state_dict())) == schedule.state_dict()
