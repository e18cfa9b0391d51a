"""The warm-up that the schedules share: pure arithmetic on steps, counted from 0."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, NonNegativeFloat


def _whole(value: float) -> float:
    if value >= 1 and value != int(value):
        raise ValueError(f"{value} is neither a share of the run (below 1) nor a whole number of steps")
    return value


Warmup = Annotated[NonNegativeFloat, AfterValidator(_whole)]
"""A share of the run where it is below 1, else a number of steps."""


def warmup_steps(warmup: float, total_steps: int) -> int:
    """Return the length of the warm-up; a share above 0 is at least one step."""
    if warmup >= 1:
        return int(warmup)
    return max(1, round(warmup * total_steps)) if warmup > 0 else 0


def rising(step: int, warmup: int) -> float | None:
    """Return the share of the learning rate during the warm-up, or None after it; the first step is never 0."""
    return (step + 1) / warmup if step < warmup else None


def progress(step: int, warmup: int, total_steps: int) -> float:
    """Return how much of the run after its warm-up lies behind this step, from 0 to 1."""
    return min(1.0, (step - warmup) / max(1, total_steps - warmup))
