"""What callbacks ask for through `control`: every rank does what any rank's ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hfx.errors import IncompatibleError

if TYPE_CHECKING:
    from transformers import TrainerControl

    from hfx import Run

ASKED = "a callback asked for it"
"""Why a run ended that a callback ended."""
_WISHES = ("should_log", "should_evaluate", "should_save", "should_training_stop", "should_epoch_stop")


def agree(run: Run, control: TrainerControl) -> None:
    """Let every rank have what any rank's callbacks ask for; all ranks call it at the same events.

    Raises:
        IncompatibleError: a callback asks for the end of an epoch.
    """
    if run.world.size > 1:
        run.at("what callbacks ask for")
        mine = torch.tensor([float(getattr(control, wish)) for wish in _WISHES], dtype=torch.float64)
        for wish, count in zip(_WISHES, run.backend.all_reduce(mine).tolist(), strict=True):
            setattr(control, wish, count > 0)
    if control.should_epoch_stop:
        raise IncompatibleError(
            "a callback set 'should_epoch_stop', and the order of a run's samples leaves nothing out; "
            "set 'should_training_stop', or take the callback away"
        )
