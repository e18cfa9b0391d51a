"""Lion (https://arxiv.org/abs/2302.06675) with 8-bit state (https://arxiv.org/abs/2110.02861), from `bitsandbytes`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from hfx import ParamGroups, Plugin, Problem, hookimpl
from hfx_plugins.optimizers.eight_bit import problems

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hfx import Run


class Lion8bit(Plugin):
    """Lion whose momentum has 8 bits: an eighth of AdamW's state.

    Blocks of 256 values share a scale. Embeddings, and a head tied to them, keep 32 bits; so do norms, biases and
    other small parameters.
    """

    unverified: ClassVar[str] = "no GPU was at hand to try its kernels for GPUs; those for CPUs were tried"

    lr: PositiveFloat = 1e-4
    """Highest learning rate; 3 to 10 times lower than AdamW's."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Weight of the momentum against the gradient in an update."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the momentum."""
    weight_decay: NonNegativeFloat = 0.1
    """Decay of matrices, 3 to 10 times higher than AdamW's; norms and biases have none."""
    quantize_embeddings: bool = False
    """Keep the state of embeddings in 8 bits, too: they are much of a small model."""
    min_8bit_size: PositiveInt = 4096
    """Parameters of fewer values keep 32 bits."""

    @hookimpl
    def hfx_check(self) -> Iterator[Problem]:
        """Report a missing or old package."""
        yield from problems("lion_8bit")

    @hookimpl
    def hfx_optimizer(self, params: ParamGroups, run: Run) -> Optimizer:
        """Return bitsandbytes' Lion8bit.

        Raises:
            IncompatibleError: the backend holds parameters in parts; in some cases at the first step.
        """
        from hfx_plugins.optimizers.eight_bit_impl import lion

        return lion(self, params, run)
