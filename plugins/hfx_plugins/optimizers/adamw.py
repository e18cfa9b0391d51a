"""AdamW, the default optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeFloat, PositiveFloat

from hfx import ParamGroups, Plugin, hookimpl

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hfx import Run


class AdamW(Plugin):
    """Adam with decoupled weight decay: a safe choice for every model."""

    lr: PositiveFloat = 3e-4
    """Highest learning rate; suits training from scratch and small models, 1e-5 to 5e-5 fine-tuning."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the running mean of the gradient."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the running mean of its square; 0.95 is common for large language models from scratch."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator."""
    weight_decay: NonNegativeFloat = 0.01
    """Decay of matrices; norms and biases have none."""
    fused: bool | None = None
    """One kernel for the whole update, which makes no copy of a parameter on the way; none: on CUDA and the CPU."""

    @hookimpl
    def hfx_optimizer(self, params: ParamGroups, run: Run) -> Optimizer:
        """Return torch's AdamW."""
        from torch.optim import AdamW as TorchAdamW

        fused = run.device.type in {"cuda", "cpu"} if self.fused is None else self.fused
        return TorchAdamW(
            params.groups(weight_decay=self.weight_decay),
            lr=self.lr,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            # torch takes False as "one parameter at a time"; None lets it group them where that is faster.
            fused=fused or None,
        )
