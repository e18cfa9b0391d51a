"""The end of a run whose loss is low enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from hfx import Plugin, hookimpl

if TYPE_CHECKING:
    from hfx import Run


class TargetLoss(Plugin):
    """Ends the run when its loss has reached a target."""

    loss: float = Field(default=1.0, gt=0)
    """The target: the loss of a step, or less."""
    steps: int = Field(default=1, ge=1)
    """Steps in a row that have to reach it."""

    @hookimpl
    def hfx_step_end(self, run: Run, metrics: dict[str, Any]) -> None:
        """Count the steps that reach the target; the figures are the same on every rank."""
        # A plugin is frozen: what it has to remember lives in `run.state`, which every checkpoint has.
        state = run.state["target_loss"]
        state["reached"] = state.get("reached", 0) + 1 if metrics["loss"] <= self.loss else 0
        if state["reached"] >= self.steps:
            run.request_stop(f"target_loss (a loss of {self.loss:g} is reached)")
