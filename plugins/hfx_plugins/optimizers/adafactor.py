"""Adafactor (https://arxiv.org/abs/1804.04235), as torch or as transformers has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat, NonPositiveFloat, PositiveFloat

from hfx import ParamGroups, Plugin, hookimpl

if TYPE_CHECKING:
    from torch.optim import Optimizer


class Adafactor(Plugin):
    """Second moments of a matrix as one row and one column: almost no state."""

    lr: PositiveFloat = 1e-2
    """Highest relative learning rate: an update is scaled by the parameter's own size."""
    beta2_decay: NonPositiveFloat = -0.8
    """Exponent by which the second moment's decay approaches 1 over the steps."""
    eps1: NonNegativeFloat | None = None
    """Added to the squared gradient; none: what the variant recommends."""
    eps2: NonNegativeFloat = 1e-3
    """Smallest size that a parameter counts with when its update is scaled."""
    d: float = Field(default=1.0, ge=1)
    """Root mean square above which an update is scaled down."""
    weight_decay: NonNegativeFloat = 0.0
    """Decay of matrices; norms and biases have none."""
    variant: Literal["torch", "transformers"] = "torch"
    """`torch` also caps the learning rate at one over the root of the step; `transformers` is fairseq's, uncapped."""

    @hookimpl
    def hfx_optimizer(self, params: ParamGroups) -> Optimizer:
        """Return the variant's optimizer."""
        groups = params.groups(weight_decay=self.weight_decay)
        if self.variant == "transformers":
            from transformers import Adafactor as TransformersAdafactor

            optimizer: Optimizer = TransformersAdafactor(
                groups,
                lr=self.lr,
                eps=(1e-30 if self.eps1 is None else self.eps1, self.eps2),
                clip_threshold=self.d,
                decay_rate=self.beta2_decay,
                scale_parameter=True,
                relative_step=False,
                warmup_init=False,
            )
            return optimizer
        from torch.optim import Adafactor as TorchAdafactor

        return TorchAdafactor(groups, lr=self.lr, beta2_decay=self.beta2_decay, eps=(self.eps1, self.eps2), d=self.d)
