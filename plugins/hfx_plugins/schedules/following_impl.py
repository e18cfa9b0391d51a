"""What makes a share of the learning rate, a function of step and length, torch's scheduler."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch.optim.lr_scheduler import LambdaLR

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hfx import Run


def following(share: Callable[[int, int], float], optimizer: Optimizer, run: Run) -> LambdaLR:
    """Return a schedule that is a function of the step and the run's length alone: `share(step, total_steps)`."""
    total_steps = run.total_steps

    # A plain function: torch leaves it out of the state, so a resumed run follows the length it has now.
    def share_of(step: int) -> float:
        return share(step, total_steps)

    return LambdaLR(optimizer, share_of)
