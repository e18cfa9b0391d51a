"""fp16 under autocast, with torch's scaler, which the backend has to use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import torch

from hfx.errors import IncompatibleError
from hfx_plugins.precision.precision_impl import PlainPrecision

if TYPE_CHECKING:
    from torch import nn

    from hfx import Run
    from hfx_plugins.precision.fp16 import FP16


@dataclass
class ScaledPrecision(PlainPrecision):
    """Products in fp16, and a loss that the backend scales."""

    run: Run = field(kw_only=True)

    @classmethod
    def of(cls, run: Run, options: FP16) -> Self:
        """Return fp16 on the run's device."""
        scaler = torch.amp.GradScaler(
            run.device.type, init_scale=options.init_scale, growth_interval=options.growth_interval
        )
        return cls(run.device, "fp16 over fp32 weights: asked for", compute=torch.float16, scaler=scaler, run=run)

    def convert(self, model: nn.Module) -> nn.Module:
        """Return the model as it is, and let each step's figures hold the scale; by now there is a backend to look at.

        Raises:
            IncompatibleError: the backend would not scale the loss, and small gradients would be lost without a word.
        """
        run, scaler = self.run, self.scaler
        assert scaler is not None
        scale = scaler.get_scale
        if getattr(run.backend, "scaler", None) is not scaler:
            name = run.resolved.roles["backend"].plugin
            raise IncompatibleError(
                f"'fp16' needs a backend that scales the loss, and '{name}' does not; use '--plugin bf16', or "
                "'--plugin auto_backend'"
            )
        run.measure("loss_scale", lambda _: scale())
        return model
