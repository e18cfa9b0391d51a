"""fp16 with loss scaling, for devices without bf16."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import PositiveFloat, PositiveInt

from hfx import Plugin, Precision, hookimpl

if TYPE_CHECKING:
    from hfx import Run


class FP16(Plugin):
    """Products in fp16 over fp32 weights, the loss scaled up so that small gradients are not lost.

    A step whose gradients overflow is skipped and reported, and the scale is halved; the first steps of a run may be
    such. The scale is saved with the run, and `metrics.jsonl` has it. Where the device computes in bf16, `bf16` needs
    no scale.
    """

    init_scale: PositiveFloat = 65536.0
    """What the loss is multiplied by at first; a power of two rounds nothing."""
    growth_interval: PositiveInt = 2000
    """Steps in a row without an overflow after which the scale is doubled."""

    @hookimpl
    def hfx_precision(self, run: Run) -> Precision:
        """Return fp16 under autocast, with a scaler."""
        from hfx_plugins.precision.fp16_impl import ScaledPrecision

        return ScaledPrecision.of(run, self)
