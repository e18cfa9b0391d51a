"""The default precision: bf16 where it is native, fp32 elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfx import Plugin, Precision, hookimpl

if TYPE_CHECKING:
    from hfx import PlainScript, Run


class AutoPrecision(Plugin):
    """bf16 products over fp32 weights where the device computes in bf16, else fp32."""

    @hookimpl
    def hfx_precision(self, run: Run) -> Precision:
        """Return the precision that suits the run's device."""
        import torch

        from hfx_plugins.precision.precision_impl import PlainPrecision, native_bf16

        native, device = native_bf16(run.device)
        if native:
            return PlainPrecision(run.device, f"bf16 over fp32 weights: {device}", compute=torch.bfloat16)
        return PlainPrecision(run.device, f"fp32: {device}")

    @hookimpl
    def hfx_eject(self, script: PlainScript) -> None:
        """Say nothing more: dtype and autocast are the run's."""
