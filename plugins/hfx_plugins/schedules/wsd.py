"""Warm-up, stable, decay (https://arxiv.org/abs/2404.06395); the shapes are those of https://arxiv.org/abs/2405.18392."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hfx import Plugin, hookimpl
from hfx_plugins.schedules.warmup import Warmup, progress, rising, warmup_steps

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from hfx import Run


class Wsd(Plugin):
    """Warm up, keep the highest learning rate, fall at the end: a run can be made longer from before its fall."""

    warmup: Warmup = 0.03
    """Length of the rise to the highest learning rate: a share of the run below 1, else steps; 0: none."""
    decay: Warmup = Field(default=0.2, gt=0)
    """Length of the fall at the end: a share of the run below 1, else steps; at most what the warm-up leaves."""
    shape: Literal["linear", "1-sqrt", "cosine"] = "1-sqrt"
    """How it falls: in a straight line, by one minus the root of how much of the fall is over, or as half a cosine."""
    min_ratio: float = Field(default=0.0, ge=0, le=1)
    """Learning rate as the run ends, as a share of the highest."""

    def share(self, step: int, total_steps: int) -> float:
        """Return the learning rate of a step, counted from 0, as a share of the highest."""
        warmup = warmup_steps(self.warmup, total_steps)
        rise = rising(step, warmup)
        if rise is not None:
            return rise
        start = max(warmup, total_steps - warmup_steps(self.decay, total_steps))
        fallen = progress(max(step, start), start, total_steps)
        return self.min_ratio + (1.0 - self.min_ratio) * self._left(fallen)

    def _left(self, fallen: float) -> float:
        if self.shape == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * fallen))
        return 1.0 - (fallen if self.shape == "linear" else math.sqrt(fallen))

    @hookimpl
    def hfx_schedule(self, optimizer: Optimizer, run: Run) -> LRScheduler:
        """Return a schedule that is a function of the step and the run's length alone."""
        from hfx_plugins.schedules.following_impl import following

        return following(self.share, optimizer, run)
