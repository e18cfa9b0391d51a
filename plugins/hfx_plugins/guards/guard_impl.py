"""The running figures of a guard, as JSON values that are saved with the run, and what follows from them."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from hfx import Run
    from hfx_plugins.guards.guard import Guard

NORMAL = 1.4826
"""Times the median absolute deviation: the standard deviation, where deviations are normal."""
LEAST = 0.02
"""The share of the median below which a deviation is never taken to be: else a loss that stands still has spikes."""


@dataclass(frozen=True)
class Seen:
    """Something that is not as it should be: which of so many steps in a row, and which step was the first."""

    kind: Literal["non_finite", "spike"]
    first: int
    in_a_row: int
    usual: float | None = None
    """The median of the losses before."""


def look(state: dict[str, Any], metrics: dict[str, Any], scale: float | None, options: Guard) -> Seen | None:
    """Take a step's figures into the running ones, and return what is wrong.

    Args:
        state: The running figures: `losses`, the last finite ones; `bad` and `high`, steps in a row; `spikes`, their
            number so far; `scale`, that of fp16 after the last step.
        metrics: The step's.
        scale: What fp16 multiplies the loss by, after the step.
        options: The guard.
    """
    before, state["scale"] = state.get("scale"), scale
    step, loss = metrics["step"], metrics["loss"]
    if not _finite(metrics):
        by_design = math.isfinite(loss) and scale is not None and 1.0 <= scale < (before or math.inf)
        state["bad"] = state.get("bad", 0) + (not by_design)
        return None if by_design else Seen("non_finite", step - state["bad"] + 1, state["bad"])
    state["bad"] = 0
    losses: list[float] = state.setdefault("losses", [])
    bound = limit(losses, options)
    usual = median(losses) if losses else None
    state["high"] = state.get("high", 0) + 1 if bound is not None and loss > bound else 0
    losses.append(loss)
    del losses[: -options.window]
    if state["high"] != options.spike_steps:
        return None
    state["spikes"] = state.get("spikes", 0) + 1
    return Seen("spike", step - options.spike_steps + 1, options.spike_steps, usual)


def _finite(metrics: dict[str, Any]) -> bool:
    return not metrics.get("skipped") and math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])


def limit(losses: list[float], options: Guard) -> float | None:
    """Return the loss beyond which one is far too high; None while too few are known."""
    if 2 * len(losses) < options.window:
        return None
    middle = median(losses)
    deviation = NORMAL * median(abs(loss - middle) for loss in losses)
    return middle + options.spike_factor * max(deviation, LEAST * abs(middle))


def react(run: Run, seen: Seen, options: Guard) -> None:
    """Write an event, tell of it, and ask the run to go back or to stop where it is time."""
    loss = run.last_metrics["loss"]
    event = {"step": run.step, "event": seen.kind, "in_a_row": seen.in_a_row}
    if seen.kind == "non_finite":
        run.log(event)
        if seen.in_a_row == 1:
            _tell(run, f"warning: step {run.step}: the loss or a gradient is not finite")
        if seen.in_a_row >= options.non_finite:
            reason = f"the loss or a gradient was not finite in {seen.in_a_row} steps in a row, up to step {run.step}"
            run.go_back(reason, seen.first, options.rollbacks, "allow more by '--guard.non-finite'")
        return
    reason = f"the loss spiked: {loss:.4g} at step {run.step}, the median before it is {seen.usual:.4g}"
    run.log(event | {"reached": loss, "usual": seen.usual, "action": options.on_spike})
    if options.on_spike == "rollback":
        run.go_back(reason, seen.first, options.rollbacks, "only warn by '--guard.on-spike warn'")
        return
    stops = options.on_spike == "stop"
    _tell(run, f"warning: {reason}" + ("; the run stops after one more step" if stops else ""))
    if stops:
        run.request_stop(reason)


def _tell(run: Run, line: str) -> None:
    if run.world.is_main:
        print(f"hfx: {line}", file=sys.stderr, flush=True)
