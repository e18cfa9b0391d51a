"""bf16, mixed or pure."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hfx import Plugin, Precision, Problem, hookimpl
from hfx.errors import IncompatibleError

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hfx import PlainScript, Run


class BF16(Plugin):
    """Products in bf16 over fp32 weights, or weights in bf16 as well."""

    pure: bool = Field(default=False, examples=[True])
    """Keep the weights and the optimizer's state in bf16 too: half the memory; see `rounding`."""
    rounding: Literal["nearest", "stochastic"] = "nearest"
    """How pure bf16 weights are rounded after an update. To the `nearest`, small updates are lost: a weight of 1 needs
    one of 0.002. `stochastic`: up or down at random, so that on average none is; a step takes longer. In one process
    alone."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report a rounding of weights that are not in bf16, and one that several processes would not survive."""
        config = run.config
        if self.rounding == "stochastic" and (
            run.world.size > 1 or config.nproc not in (1, "auto") or config.nnodes != "1"
        ):
            # Torch makes new accumulators of gradients where a parameter's dtype changes, and DDP watches the old ones.
            yield Problem(
                "'bf16.rounding' is 'stochastic', which works in one process alone: others would no longer share their "
                "gradients; use '--bf16.rounding nearest'"
            )
        if self.rounding == "stochastic" and not self.pure:
            yield Problem(
                "'bf16.rounding' is 'stochastic', and the weights are in fp32, which loses no update; "
                "add '--bf16.pure true', or leave it out"
            )

    @hookimpl
    def hfx_precision(self, run: Run) -> Precision:
        """Return bf16, under autocast unless it is pure."""
        import torch

        from hfx_plugins.precision.precision_impl import PlainPrecision, native_bf16

        native, device = native_bf16(run.device)
        kind = "pure bf16" if self.pure else "bf16 over fp32 weights"
        if self.rounding == "stochastic":
            kind += ", rounded stochastically"
        why = f"{kind}: asked for" if native else f"{kind}: asked for, emulated by {device}"
        if self.pure:
            return PlainPrecision(run.device, why, dtype=torch.bfloat16)
        return PlainPrecision(run.device, why, compute=torch.bfloat16)

    @hookimpl(wrapper=True)
    def hfx_optimizer(self, run: Run) -> Generator[None, Optimizer, Optimizer]:
        """Return the optimizer, its updates rounded as asked for.

        Raises:
            IncompatibleError: the backend holds parameters in parts.
        """
        optimizer = yield
        if self.rounding == "nearest":
            return optimizer
        from hfx_plugins.precision.stochastic_impl import StochasticallyRounded

        return StochasticallyRounded(optimizer, run)

    @hookimpl
    def hfx_eject(self, script: PlainScript) -> None:
        """Refuse what no plain optimizer does.

        Raises:
            IncompatibleError: weights are rounded stochastically.
        """
        if self.rounding == "stochastic":
            raise IncompatibleError(
                "'bf16.rounding' is 'stochastic', which is hfx's own code; train with '--bf16.rounding nearest' to "
                "eject"
            )
