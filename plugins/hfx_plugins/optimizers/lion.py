"""Lion (https://arxiv.org/abs/2302.06675), from the package `lion-pytorch`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeFloat, PositiveFloat

from hfx import ParamGroups, Plugin, hookimpl

if TYPE_CHECKING:
    from torch.optim import Optimizer


class Lion(Plugin):
    """Sign of the momentum: half of AdamW's state."""

    lr: PositiveFloat = 1e-4
    """Highest learning rate; 3 to 10 times lower than AdamW's."""
    beta1: float = Field(default=0.9, ge=0, le=1)
    """Weight of the momentum against the gradient in an update."""
    beta2: float = Field(default=0.99, ge=0, le=1)
    """Decay of the momentum."""
    weight_decay: NonNegativeFloat = 0.1
    """Decay of matrices, 3 to 10 times higher than AdamW's; norms and biases have none."""

    @hookimpl
    def hfx_optimizer(self, params: ParamGroups) -> Optimizer:
        """Return lion-pytorch's Lion."""
        from lion_pytorch import Lion as LionOptimizer

        optimizer: Optimizer = LionOptimizer(
            params.groups(weight_decay=self.weight_decay), lr=self.lr, betas=(self.beta1, self.beta2)
        )
        return optimizer
