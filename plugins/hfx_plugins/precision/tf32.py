"""Full precision with products in TF32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from hfx import Plugin, Precision, Problem, hookimpl

if TYPE_CHECKING:
    from hfx import Run


class TF32(Plugin):
    """Weights and activations in fp32, whose matrix products a GPU may round to TF32: 10 bits instead of 23.

    Several times faster than `fp32` on GPUs since Ampere, and as wide in range. The setting is torch's, for the whole
    process; it is put back when the run ends.
    """

    unverified: ClassVar[str] = "no GPU was at hand; that torch's setting is made and put back was seen"

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report a device without TF32, once it is known."""
        from hfx_plugins.precision.device_impl import capability, known_device

        device = known_device(run)
        if device is not None and capability(device) < (8, 0):
            yield Problem(
                f"'tf32' needs a GPU that multiplies in TF32 (compute capability 8.0 or higher), and the device is "
                f"'{device}'; use '--plugin fp32'"
            )

    @hookimpl
    def hfx_precision(self, run: Run) -> Precision:
        """Return fp32 without autocast, with products in TF32 until the run ends."""
        from hfx_plugins.precision.precision_impl import PlainPrecision, tf32_products

        if not run.planning:  # nothing is multiplied, and nobody closes such a run
            run.enter(tf32_products())
        return PlainPrecision(run.device, "fp32 with products in TF32: asked for")
