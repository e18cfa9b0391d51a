"""Full precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfx import Plugin, Precision, hookimpl

if TYPE_CHECKING:
    from hfx import PlainScript, Run


class FP32(Plugin):
    """Weights and products in fp32: exact, and slow on accelerators."""

    @hookimpl
    def hfx_precision(self, run: Run) -> Precision:
        """Return fp32 without autocast."""
        from hfx_plugins.precision.precision_impl import PlainPrecision

        return PlainPrecision(run.device, "fp32: asked for")

    @hookimpl
    def hfx_eject(self, script: PlainScript) -> None:
        """Say nothing more: dtype and autocast are the run's."""
