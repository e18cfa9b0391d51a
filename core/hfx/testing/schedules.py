"""What is asked of a schedule: learning rates that follow from the step alone."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import torch

from hfx.run import Run
from hfx.testing.bench import Bench, as_json

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

STEPS = 20
RATES = (0.1, 0.05)
"""Of two groups."""


def _optimizer() -> Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": rate} for rate in RATES]
    return torch.optim.SGD(groups)


def _follow(optimizer: Optimizer, schedule: LRScheduler, steps: int) -> list[list[float]]:
    """Return the learning rates of this many steps, each `(groups,)`, the one they begin with first."""
    found = []
    for _ in range(steps):
        found.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return found


def _rates(run: Run, steps: int = STEPS + 2) -> list[list[float]]:
    optimizer = _optimizer()
    return _follow(optimizer, run.hooks.schedule(optimizer=optimizer, run=run), steps)


def learning_rates_are_never_negative(bench: Bench) -> None:
    """Nor are they infinite or no number, also right behind the last step."""
    with bench.run(steps=STEPS) as run:
        for step, rates in enumerate(_rates(run)):
            assert all(math.isfinite(rate) and rate >= 0 for rate in rates), f"at step {step} the rates are {rates}"


def some_step_has_a_learning_rate(bench: Bench) -> None:
    """A schedule that stays at zero learns nothing."""
    with bench.run(steps=STEPS) as run:
        assert any(rate > 0 for rates in _rates(run, STEPS) for rate in rates), "the learning rate is 0 at every step"


def each_group_keeps_its_share(bench: Bench) -> None:
    """A group with half the learning rate has half of it at every step."""
    with bench.run(steps=STEPS) as run:
        for step, (first, second) in enumerate(_rates(run, STEPS)):
            share = RATES[1] / RATES[0]
            kept = math.isclose(second, share * first, rel_tol=1e-6, abs_tol=1e-12)
            assert kept, (
                f"at step {step} a group with {share:g} of the learning rate has {second:g}, the other {first:g}"
            )


def learning_rates_follow_from_the_step_alone(bench: Bench) -> None:
    """Not from chance, nor from what other schedules did before."""
    with bench.run(steps=STEPS) as run, bench.run(steps=STEPS) as other:
        first = _rates(run)
        random.seed(99)
        torch.manual_seed(99)
        assert _rates(run) == first, "a schedule made a second time has other learning rates"
        assert _rates(other) == first, "a schedule made in a second run has other learning rates"


def a_restored_schedule_continues(bench: Bench) -> None:
    """From JSON values, at any step, to the bit."""
    with bench.run(steps=STEPS) as run:
        whole = _rates(run)
        for step in (1, STEPS // 2, STEPS - 1):
            optimizer = _optimizer()
            schedule = run.hooks.schedule(optimizer=optimizer, run=run)
            _follow(optimizer, schedule, step)
            state = as_json(schedule.state_dict(), "`state_dict()` of the schedule")
            assert _restored(run, optimizer, state, len(whole) - step) == whole[step:], (
                f"restored at step {step} the schedule goes on with other learning rates"
            )


def _restored(run: Run, saved: Optimizer, state: dict[str, object], steps: int) -> list[list[float]]:
    optimizer = _optimizer()
    schedule = run.hooks.schedule(optimizer=optimizer, run=run)
    for group, old in zip(optimizer.param_groups, saved.param_groups, strict=True):
        group.update({key: value for key, value in old.items() if key != "params"})
    schedule.load_state_dict(state)
    return _follow(optimizer, schedule, steps)


SCHEDULE = (
    learning_rates_are_never_negative,
    some_step_has_a_learning_rate,
    each_group_keeps_its_share,
    learning_rates_follow_from_the_step_alone,
    a_restored_schedule_continues,
)
