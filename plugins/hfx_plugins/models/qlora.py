"""Low-rank adapters over a base in four bits (https://arxiv.org/abs/2305.14314)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, Literal

from hfx import Problem, Run, hookimpl
from hfx.errors import IncompatibleError
from hfx_plugins.models.lora import Lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfx import PlainScript


class Qlora(Lora):
    """`lora` over a frozen base whose linear layers are kept in 4 bits: an eighth of the memory of fp32 weights.

    The model is loaded as ever and its layers are cut down one by one (bitsandbytes' nf4, in blocks of 64, their scales
    in 8 bits); heads and `modules_to_save` stay whole. The merged export is a plain model: the base as the adapters saw
    it, no longer in 4 bits.
    """

    unverified: ClassVar[str] = "bitsandbytes' kernels for GPUs were never tried, for want of one; those for CPUs were"

    variant: Literal["lora", "rslora"] = "lora"
    """`rslora` suits high ranks."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report what `lora` would, two plugins with adapters, and a missing package."""
        yield from super().hfx_check(run)
        if any(active.name == "lora" for active in run.active):
            yield Problem("'qlora' has adapters of its own, as 'lora' has; drop one of the two")
        if find_spec("bitsandbytes") is None:
            yield Problem("'qlora' needs the package 'bitsandbytes'; run: pip install 'hfx[lora,bitsandbytes]'")

    @hookimpl(wrapper=True)
    def hfx_model(self, run: Run) -> Generator[None, PreTrainedModel, PreTrainedModel]:
        """Return the model, its base in 4 bits, with adapters in its layers and nothing else to train."""
        from hfx_plugins.models.lora_impl import install
        from hfx_plugins.models.qlora_impl import quantize

        model = yield
        quantize(model, self, run)
        install(model, self, run)
        return model

    @hookimpl
    def hfx_eject(self, script: PlainScript, run: Run) -> None:
        """Refuse a base in 4 bits.

        Raises:
            IncompatibleError: always.
        """
        raise IncompatibleError("'qlora' keeps its base in 4 bits by hfx's own code; train with 'lora' to eject")
