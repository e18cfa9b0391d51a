"""Schedules that are wrong."""

from __future__ import annotations

import random
from typing import Any

from hfx import Plugin, hookimpl


def _by(optimizer: Any, factor: Any) -> Any:
    from torch.optim.lr_scheduler import LambdaLR

    return LambdaLR(optimizer, factor)


class NegativeSchedule(Plugin):
    """Falls below zero."""

    @hookimpl
    def hfx_schedule(self, optimizer: Any, run: Any) -> Any:
        return _by(optimizer, lambda step: 1 - 1.5 * step / run.total_steps)


class LevellingSchedule(Plugin):
    """Gives all groups one learning rate."""

    @hookimpl
    def hfx_schedule(self, optimizer: Any) -> Any:
        from torch.optim.lr_scheduler import LRScheduler

        class Levelling(LRScheduler):
            def get_lr(self) -> list[float]:
                return [self.base_lrs[0] / (1 + self.last_epoch) for _ in self.base_lrs]

        return Levelling(optimizer)


class ChanceSchedule(Plugin):
    """Draws learning rates."""

    @hookimpl
    def hfx_schedule(self, optimizer: Any) -> Any:
        return _by(optimizer, lambda step: random.Random(random.random()).random() if optimizer else 0)


class CountingSchedule(Plugin):
    """Counts the steps itself, and forgets them when the run is restored."""

    @hookimpl
    def hfx_schedule(self, optimizer: Any) -> Any:
        count = {"steps": 0}

        def factor(step: int) -> float:
            count["steps"] += 1
            return 1 / count["steps"]

        return _by(optimizer, factor)


class IdleSchedule(Plugin):
    """Never learns."""

    @hookimpl
    def hfx_schedule(self, optimizer: Any) -> Any:
        return _by(optimizer, lambda step: 0.0)


class ObjectSchedule(Plugin):
    """Keeps a callable object in its state."""

    @hookimpl
    def hfx_schedule(self, optimizer: Any) -> Any:
        from torch.optim.lr_scheduler import LambdaLR

        class Remembering(LambdaLR):
            def state_dict(self) -> dict[str, Any]:
                return {**super().state_dict(), "seen": {1, 2, 3}}

        return Remembering(optimizer, lambda step: 1.0)


WRONG = {
    NegativeSchedule: {"learning rates are never negative"},
    LevellingSchedule: {"each group keeps its share"},
    ChanceSchedule: {
        "each group keeps its share",
        "learning rates follow from the step alone",
        "a restored schedule continues",
    },
    CountingSchedule: {"each group keeps its share", "a restored schedule continues"},
    IdleSchedule: {"some step has a learning rate"},
    ObjectSchedule: {"a restored schedule continues"},
}
