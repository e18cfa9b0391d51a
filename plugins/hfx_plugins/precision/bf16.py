"""bf16, mixed or pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfx import Plugin, Precision, hookimpl

if TYPE_CHECKING:
    from hfx import Run


class BF16(Plugin):
    """Products in bf16 over fp32 weights, or weights in bf16 as well."""

    pure: bool = False
    """Keep the weights and the optimizer's state in bf16 too: half the memory, and small updates round away."""

    @hookimpl
    def hfx_precision(self, run: Run) -> Precision:
        """Return bf16, under autocast unless it is pure."""
        import torch

        from hfx_plugins.precision.precision_impl import PlainPrecision, native_bf16

        native, device = native_bf16(run.device)
        kind = "pure bf16" if self.pure else "bf16 over fp32 weights"
        why = f"{kind}: asked for" if native else f"{kind}: asked for, emulated by {device}"
        if self.pure:
            return PlainPrecision(run.device, why, dtype=torch.bfloat16)
        return PlainPrecision(run.device, why, compute=torch.bfloat16)
