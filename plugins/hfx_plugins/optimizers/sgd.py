"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from hfx import ParamGroups, Plugin, hookimpl

if TYPE_CHECKING:
    from torch.optim import Optimizer


class Sgd(Plugin):
    """Plain gradient descent with momentum: one tensor of state a parameter, none without momentum."""

    lr: PositiveFloat = 0.1
    """Highest learning rate; with momentum 0.9 a gradient moves the weights ten times as far in the end."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the running sum of gradients; 0: none is kept."""
    nesterov: bool = False
    """Step along the momentum as it will be after the next step; needs one."""
    weight_decay: NonNegativeFloat = 0.0
    """Decay of matrices, added to the gradient before the momentum; norms and biases have none."""

    @model_validator(mode="after")
    def _with_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("'nesterov' needs a 'momentum' above 0; 0.9 is common")
        return self

    @hookimpl
    def hfx_optimizer(self, params: ParamGroups) -> Optimizer:
        """Return torch's SGD."""
        from torch.optim import SGD

        groups = params.groups(weight_decay=self.weight_decay)
        return SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)
