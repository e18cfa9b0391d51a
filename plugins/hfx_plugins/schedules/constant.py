"""One learning rate throughout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfx import Plugin, hookimpl
from hfx_plugins.schedules.warmup import Warmup, rising, warmup_steps

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from hfx import Run


class Constant(Plugin):
    """Warm up, then keep the learning rate."""

    warmup: Warmup = 0.03
    """Length of the rise to the learning rate: a share of the run below 1, else steps; 0: none."""

    def share(self, step: int, total_steps: int) -> float:
        """Return the learning rate of a step, counted from 0, as a share of the highest."""
        rise = rising(step, warmup_steps(self.warmup, total_steps))
        return 1.0 if rise is None else rise

    @hookimpl
    def hfx_schedule(self, optimizer: Optimizer, run: Run) -> LRScheduler:
        """Return a schedule that is a function of the step and the run's length alone."""
        from hfx_plugins.schedules.following_impl import following

        return following(self.share, optimizer, run)
