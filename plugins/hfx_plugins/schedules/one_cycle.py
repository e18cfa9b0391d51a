"""The one-cycle policy (https://arxiv.org/abs/1708.07120), without a cycle of the momentum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from hfx import Plugin, hookimpl
from hfx_plugins.schedules.warmup import Warmup, progress, rising, warmup_steps

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from hfx import Run


class OneCycle(Plugin):
    """Rise by half a cosine, fall by another to far less than at first; the optimizer's momentum stays as it is."""

    warmup: Warmup = 0.3
    """Length of the rise to the highest learning rate: a share of the run below 1, else steps; 0: none."""
    start_ratio: float = Field(default=0.04, ge=0, le=1)
    """Learning rate from which it rises, as a share of the highest; the first step is above it."""
    min_ratio: float = Field(default=4e-6, ge=0, le=1)
    """Learning rate as the run ends, as a share of the highest."""

    def share(self, step: int, total_steps: int) -> float:
        """Return the learning rate of a step, counted from 0, as a share of the highest."""
        warmup = warmup_steps(self.warmup, total_steps)
        rise = rising(step, warmup)
        if rise is not None:
            return _between(self.start_ratio, 1.0 - rise)
        return _between(self.min_ratio, progress(step, warmup, total_steps))

    @hookimpl
    def hfx_schedule(self, optimizer: Optimizer, run: Run) -> LRScheduler:
        """Return a schedule that is a function of the step and the run's length alone."""
        from hfx_plugins.schedules.following_impl import following

        return following(self.share, optimizer, run)


def _between(low: float, down: float) -> float:
    """Return a point of half a cosine from 1 (where `down` is 0) to `low` (where it is 1)."""
    return low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * down))
