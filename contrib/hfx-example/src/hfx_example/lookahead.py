"""Lookahead (https://arxiv.org/abs/1907.08610): slow weights that follow those of any optimizer."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt

from hfx import Plugin, hookimpl

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from hfx import Run


class Lookahead(Plugin):
    """Slow weights follow the optimizer's: every few steps both meet part of the way between them."""

    every: PositiveInt = 5
    """Steps from one meeting to the next."""
    pull: float = Field(default=0.5, gt=0, le=1)
    """How far the slow weights go to meet the others; 1 goes all the way, which changes nothing."""

    @hookimpl(wrapper=True)
    def hfx_optimizer(self, run: Run) -> Generator[None, Optimizer, Optimizer]:
        """Return the optimizer of whoever provides it, with a meeting after each of its steps that is due."""
        optimizer = yield
        # A hook of torch's keeps the optimizer what it is: its class, `state` and `param_groups` stay shared.
        optimizer.register_step_post_hook(lambda stepped, *_: self._after_step(stepped, run))
        return optimizer

    def _after_step(self, optimizer: Optimizer, run: Run) -> None:
        # Saved and restored with the run; a step that was skipped (fp16) is not counted, for it calls no hook.
        state = run.state["lookahead"]
        state["steps"] = state.get("steps", 0) + 1
        meet = state["steps"] % self.every == 0
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _follow(optimizer, parameter, self.pull if meet else 0.0)


def _follow(optimizer: Optimizer, fast: Tensor, pull: float) -> None:
    """Let the slow weights begin as those after the first step, and meet the fast ones where there is a pull."""
    # In the optimizer's state the backend saves them by the parameter's name, whole or sharded. They enter it after
    # the first step only: optimizers take a parameter with any state for one that they have seen.
    data = fast.detach()
    slow = optimizer.state[fast].setdefault("slow", data.clone())
    if pull:
        data.copy_(slow.lerp_(data, pull))
