"""GaLore (https://arxiv.org/abs/2403.03507), from the package `pytorch-optimizer`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from hfx import ParamGroups, Plugin, Problem, hookimpl

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hfx import Run


class Galore(Plugin):
    """AdamW in a subspace of each gradient: all weights are trained with the state of low-rank ones.

    The gradient of a matrix inside the layers is projected on its strongest directions, which are found anew now and
    then, by a singular value decomposition. Embeddings, head, norms, biases, and matrices with a side no longer than
    the rank, have AdamW.
    """

    lr: PositiveFloat = 1e-2
    """Highest learning rate; suits training from scratch, 1e-5 to 1e-4 fine-tuning."""
    rank: PositiveInt = 128
    """Directions that a gradient is projected on; the paper takes a quarter to a half of the hidden size."""
    update_every: PositiveInt = 200
    """Steps from one search for directions to the next."""
    scale: PositiveFloat = 0.25
    """Factor of a projected update, beside the learning rate; the paper fine-tunes with 2 to 4."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the running mean of the gradient."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the running mean of its square."""
    eps: PositiveFloat = 1e-6
    """Added to the denominator."""
    weight_decay: NonNegativeFloat = 0.0
    """Decay of matrices; norms and biases have none."""

    @hookimpl
    def hfx_check(self) -> Iterator[Problem]:
        """Report a missing package."""
        if find_spec("pytorch_optimizer") is None:
            yield Problem("'galore' needs the package 'pytorch-optimizer'; run: pip install 'hfx[galore]'")

    @hookimpl
    def hfx_optimizer(self, params: ParamGroups, run: Run) -> Optimizer:
        """Return pytorch-optimizer's GaLore.

        Raises:
            IncompatibleError: no matrix is large enough, or the backend holds parameters in parts; the latter in some
                cases at the first step.
        """
        from hfx_plugins.optimizers.galore_impl import build

        return build(self, params, run)
