"""One over the root of the step (https://arxiv.org/abs/1706.03762)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import PositiveInt

from hfx import Plugin, hookimpl
from hfx_plugins.schedules.warmup import Warmup, rising, warmup_steps

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from hfx import Run


class InverseSqrt(Plugin):
    """Warm up, then fall by the root of the steps: with a warm-up in steps, whatever the run's length."""

    warmup: Warmup = 0.03
    """Length of the rise to the highest learning rate: a share of the run below 1, else steps; 0: none."""
    timescale: PositiveInt | None = None
    """A third of the steps from the warm-up to half the highest rate; none: as long as the warm-up, at least 1."""

    def share(self, step: int, total_steps: int) -> float:
        """Return the learning rate of a step, counted from 0, as a share of the highest."""
        warmup = warmup_steps(self.warmup, total_steps)
        rise = rising(step, warmup)
        if rise is not None:
            return rise
        timescale = self.timescale or max(1, warmup)
        return math.sqrt(timescale / (timescale + step - warmup))

    @hookimpl
    def hfx_schedule(self, optimizer: Optimizer, run: Run) -> LRScheduler:
        """Return a schedule that is a function of the step and the run's length alone."""
        from hfx_plugins.schedules.following_impl import following

        return following(self.share, optimizer, run)
