"""A straight line down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from hfx import Plugin, hookimpl
from hfx_plugins.schedules.warmup import Warmup, progress, rising, warmup_steps

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from hfx import Run


class Linear(Plugin):
    """Warm up, then fall in a straight line to a share of the highest learning rate."""

    warmup: Warmup = 0.03
    """Length of the rise to the highest learning rate: a share of the run below 1, else steps; 0: none."""
    min_ratio: float = Field(default=0.0, ge=0, le=1)
    """Learning rate as the run ends, as a share of the highest."""

    def share(self, step: int, total_steps: int) -> float:
        """Return the learning rate of a step, counted from 0, as a share of the highest."""
        warmup = warmup_steps(self.warmup, total_steps)
        rise = rising(step, warmup)
        if rise is not None:
            return rise
        return self.min_ratio + (1.0 - self.min_ratio) * (1.0 - progress(step, warmup, total_steps))

    @hookimpl
    def hfx_schedule(self, optimizer: Optimizer, run: Run) -> LRScheduler:
        """Return a schedule that is a function of the step and the run's length alone."""
        from hfx_plugins.schedules.following_impl import following

        return following(self.share, optimizer, run)
