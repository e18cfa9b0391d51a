"""Muon (https://kellerjordan.github.io/posts/muon/, https://arxiv.org/abs/2502.16982), beside AdamW."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from hfx import ParamGroups, Plugin, hookimpl

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hfx import Run


class Muon(Plugin):
    """Orthogonal updates of the matrices inside the layers, AdamW for embeddings, head, norms and biases."""

    lr: PositiveFloat = 0.02
    """Highest learning rate of the matrices inside the layers; with `adjust_lr match_rms_adamw` take AdamW's."""
    adamw_lr: PositiveFloat = 3e-4
    """Highest learning rate of everything else."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Decay of Muon's running mean of the gradient."""
    nesterov: bool = True
    """Orthogonalize the gradient and its mean together, instead of the mean alone."""
    ns_steps: PositiveInt = Field(default=5, lt=100)
    """Steps of the Newton-Schulz iteration that makes an update orthogonal."""
    weight_decay: NonNegativeFloat = 0.1
    """Decay of matrices, each by its own learning rate; norms and biases have none."""
    adjust_lr: Literal["original", "match_rms_adamw"] = "original"
    """Scale of an update by a matrix's shape: more for high ones, or as large as AdamW's would be."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """AdamW's decay of the running mean of the gradient."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """AdamW's decay of the running mean of its square."""

    @hookimpl
    def hfx_optimizer(self, params: ParamGroups, run: Run) -> Optimizer:
        """Return both as one optimizer.

        Raises:
            IncompatibleError: no trainable matrix is inside a layer.
        """
        from hfx_plugins.optimizers.muon_impl import build

        return build(self, params, run)
