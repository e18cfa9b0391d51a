"""`guard` looks at the figures of steps: what it takes for a spike, what for noise, and what it keeps."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfx_plugins.guards.guard import Guard
from hfx_plugins.guards.guard_impl import Seen, look

GUARD = Guard()


def steps(losses: list[float], state: dict[str, Any] | None = None, first: int = 1, guard: Guard = GUARD) -> list[Seen]:
    """Return what is seen in steps with these losses."""
    state = {} if state is None else state
    found = [
        look(state, {"step": step, "loss": loss, "grad_norm": 1.0}, None, guard)
        for step, loss in enumerate(losses, first)
    ]
    return [seen for seen in found if seen]


def falling(seed: int, number: int, start: float, end: float, noise: float, kind: str) -> list[float]:
    """Return losses that fall from `start` to `end`, with noise that is a share of them."""
    rng = random.Random(seed)

    def drawn() -> float:
        if kind == "normal":
            return 1 + noise * rng.gauss(0, 1)
        return math.exp(noise * rng.gauss(0, 1)) if kind == "lognormal" else 1 + noise * rng.uniform(-2, 2)

    return [(end + (start - end) * math.exp(-step / (number / 5))) * max(0.01, drawn()) for step in range(number)]


noisy = st.builds(
    falling,
    seed=st.integers(0, 2**32),
    number=st.just(400),
    start=st.floats(1.0, 12.0),
    end=st.floats(0.001, 1.0),
    noise=st.floats(0.0, 0.3),
    kind=st.sampled_from(["normal", "lognormal", "uniform"]),
)


@settings(deadline=None)
@given(noisy)
def test_losses_that_fall_with_ordinary_noise_have_no_spike(losses: list[float]) -> None:
    assert steps(losses) == []


@settings(deadline=None)
@given(noisy, st.integers(60, 390), st.floats(3.0, 1000.0))
def test_a_loss_that_stays_far_above_those_before_is_one_spike(losses: list[float], at: int, times: float) -> None:
    before = losses[max(0, at - 100) : at]
    high = max(before) * times + 3 * (max(before) - min(before))
    losses[at : at + 6] = [high] * 6
    [seen, *_] = steps(losses)
    assert (seen.kind, seen.first, seen.in_a_row) == ("spike", at + 1, 3)
    assert len(steps(losses[: at + 6])) == 1


def test_one_hard_batch_is_no_spike() -> None:
    losses = falling(0, 200, 4.0, 1.0, 0.1, "normal")
    losses[150:152] = [50.0, 50.0]
    assert steps(losses) == []


def test_a_loss_that_stands_still_has_no_spike_where_it_moves_by_a_hair() -> None:
    assert steps([1.0] * 100 + [1.05] * 10) == []


def test_a_level_that_stays_is_the_new_usual_one() -> None:
    losses = [1.0] * 100 + [5.0] * 100 + [20.0] * 10
    assert [seen.first for seen in steps(losses)] == [101, 201]


@settings(deadline=None)
@given(noisy, st.integers(1, 399))
def test_figures_that_were_saved_as_json_lead_to_the_same(losses: list[float], at: int) -> None:
    losses[250:254] = [1000.0] * 4
    whole: dict[str, Any] = {}
    expected = steps(losses, whole)
    state: dict[str, Any] = {}
    found = steps(losses[:at], state)
    saved = json.loads(json.dumps(state, allow_nan=False))
    assert found + steps(losses[at:], saved, first=at + 1) == expected
    assert saved == whole


@pytest.mark.parametrize(
    "bad",
    [
        {"loss": math.nan, "grad_norm": 1.0},
        {"loss": math.inf, "grad_norm": 1.0},
        {"loss": 1.0, "grad_norm": math.nan},
        {"loss": 1.0, "grad_norm": -math.inf},
        {"loss": 1.0, "grad_norm": 1.0, "skipped": True},
    ],
)
def test_steps_that_are_not_finite_are_counted_in_a_row(bad: dict[str, Any]) -> None:
    state: dict[str, Any] = {}
    good = {"loss": 1.0, "grad_norm": 1.0}
    found = [look(state, {"step": n, **figures}, None, GUARD) for n, figures in enumerate([good, bad, bad, good, bad])]
    assert [(seen.kind, seen.first, seen.in_a_row) if seen else None for seen in found] == [
        None, ("non_finite", 1, 1), ("non_finite", 1, 2), None, ("non_finite", 4, 1),
    ]  # fmt: skip
    assert state["losses"] == [1.0, 1.0]


def test_steps_that_fp16_skips_while_its_scale_comes_down_do_not_count() -> None:
    state: dict[str, Any] = {}

    def skipped(step: int, scale: float, loss: float = 1.0) -> int | None:
        seen = look(state, {"step": step, "loss": loss, "grad_norm": math.inf, "skipped": True}, scale, GUARD)
        return seen.in_a_row if seen else None

    scales = [2.0**power for power in range(15, -1, -1)]
    assert [skipped(step, scale) for step, scale in enumerate(scales)] == [None] * 16
    assert skipped(16, 0.5) == 1, "nothing overflows any more because of a scale below one"
    state.clear()
    assert [skipped(0, 4.0), skipped(1, 4.0)] == [None, 1], "the scale stays, and so it is not to blame"
    assert skipped(2, 2.0, math.nan) == 2, "the loss itself is not scaled"
