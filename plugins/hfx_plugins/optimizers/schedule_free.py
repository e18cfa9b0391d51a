"""Schedule-free AdamW (https://arxiv.org/abs/2405.15682), from the package `schedulefree`."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeFloat, PositiveFloat

from hfx import ParamGroups, Plugin, Problem, hookimpl
from hfx.errors import IncompatibleError

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hfx import Run


class ScheduleFree(Plugin):
    """AdamW that averages its weights instead of lowering its learning rate: a run may end at any step.

    Whenever the model is in evaluation mode it has the averaged weights: in evaluations, in the export, and when the
    run has ended. Training goes on from its own weights, to the bit; an evaluation keeps a copy of them. The schedule
    is `constant`, and its warm-up is that of this optimizer.
    """

    lr: PositiveFloat = 2.5e-3
    """Learning rate after the warm-up; 1 to 10 times AdamW's."""
    beta1: float = Field(default=0.9, gt=0, lt=1)
    """Where between the average (1) and the last step's weights (0) gradients are taken; long runs: 0.95 to 0.98."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the running mean of the gradient's square."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator."""
    weight_decay: NonNegativeFloat = 0.01
    """Decay of matrices; norms and biases have none."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report a missing package, and a schedule that lowers the learning rate."""
        if find_spec("schedulefree") is None:
            yield Problem(f"'{self.name}' needs the package schedulefree; pip install 'hfx[schedule_free]'")
        schedule = run.resolved.roles["schedule"].plugin
        if schedule != "constant":
            yield Problem(
                f"'{self.name}' averages weights instead of lowering the learning rate, and the schedule is "
                f"'{schedule}'; add '--plugin constant'"
            )

    @hookimpl
    def hfx_optimizer(self, params: ParamGroups, run: Run) -> Optimizer:
        """Return schedulefree's AdamW, and let the weights follow the model's mode.

        Raises:
            IncompatibleError: as training begins, where the backend holds parameters in parts.
        """
        from hfx_plugins.optimizers.schedule_free_impl import build

        return build(self, params, run)

    @hookimpl(wrapper=True)
    def hfx_export(self, run: Run) -> Generator[None, Path, Path]:
        """Let the export see the averaged weights."""
        training = run.model.training
        run.model.eval()
        try:
            return (yield)
        finally:
            run.model.train(training)

    @hookimpl
    def hfx_eject(self) -> None:
        """Refuse weights that are exchanged between steps.

        Raises:
            IncompatibleError: always.
        """
        raise IncompatibleError(
            f"'{self.name}' exchanges the weights for evaluations by hfx's own code; train with 'adamw' to eject"
        )
