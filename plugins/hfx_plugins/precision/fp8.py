"""fp8 products (https://arxiv.org/abs/2209.05433), as torchao has them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from hfx import Plugin, Precision, Problem, hookimpl

if TYPE_CHECKING:
    from hfx import Run


class FP8(Plugin):
    """Products of linear layers in fp8, everything else as in `bf16`: faster where matrices are large.

    Weights stay in fp32; each operand of a product is scaled and rounded to fp8 on the way. Layers whose sizes are no
    multiples of 16 stay as they are, and so does the head.
    """

    unverified: ClassVar[str] = "no GPU that multiplies in fp8 was at hand; it was tried emulated, on a CPU"

    recipe: Literal["tensorwise", "rowwise", "rowwise_with_gw_hp"] = "tensorwise"
    """One scale a tensor (fastest), one a row (more accurate), or that with the weights' gradients in bf16."""
    skip: list[str] = Field(default_factory=list)
    """Patterns of names of linear layers that stay in bf16: `*.layers.0.*`."""
    emulate: bool = False
    """Round to fp8 and multiply without it: slow, to try out on any device what fp8 does to a loss."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report a missing package, and a device without fp8, once it is known."""
        from hfx_plugins.precision.device_impl import capability, known_device

        if find_spec("torchao") is None:
            yield Problem("'fp8' needs the package 'torchao'; run: pip install 'hfx[fp8]'")
        device = known_device(run)
        if device is not None and not self.emulate and capability(device) < (8, 9):
            yield Problem(
                f"'fp8' needs a GPU that multiplies in fp8 (compute capability 8.9 or higher), and the device is "
                f"'{device}'; use '--plugin bf16', or '--fp8.emulate true' to try it out"
            )

    @hookimpl
    def hfx_precision(self, run: Run) -> Precision:
        """Return bf16 under autocast, with linear layers in fp8."""
        from hfx_plugins.precision.fp8_impl import Float8Precision

        return Float8Precision.of(run, self)
