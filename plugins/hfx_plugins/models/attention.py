"""The code that computes attention."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, Literal

from hfx import Plugin, Problem, Run, hookimpl

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfx import PlainScript


class Attention(Plugin):
    """Choose the code that computes attention, by the device or by name, and say what was chosen and why.

    `sdpa` is torch's own, which keeps no scores; `eager` keeps them all; `flash` is the package flash-attn, for a GPU
    that computes in half precision; `flex` is torch's compiled one, for a GPU.
    """

    unverified: ClassVar[str] = "`flash` and `flex` were never tried, for want of a GPU"

    kernel: Literal["auto", "sdpa", "eager", "flash", "flex"] = "auto"
    """`auto`: `flash` where it can be, else `sdpa`, else `eager`."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report code that is not there, that the device cannot run, or that another option names, too."""
        named = {active.name: active.plugin.options().get("attn_implementation") for active in run.active}
        if named.get("pretrained") is not None:
            yield Problem("'attention' and 'pretrained.attn_implementation' both name attention's code; drop one")
        if self.kernel == "flash" and find_spec("flash_attn") is None:
            yield Problem("'attention.kernel' 'flash' needs the package 'flash-attn'; install it, or set it to 'auto'")
        # The first of the two checks comes before torch, and only the second knows the device.
        device = run.device.type if "torch" in sys.modules and self.kernel in ("flash", "flex") else None
        if device not in (None, "cuda"):
            what = {"flash": "runs on a GPU alone", "flex": "has no backward pass outside a GPU"}[self.kernel]
            yield Problem(
                f"'{self.kernel}' attention {what}, and the run is on '{device}'; set 'attention.kernel' to 'auto'"
            )

    @hookimpl(wrapper=True)
    def hfx_model(self, run: Run) -> Generator[None, PreTrainedModel, PreTrainedModel]:
        """Return the model with the attention that was chosen."""
        from hfx_plugins.models.attention_impl import choose

        model = yield
        choose(model, self, run)
        return model

    @hookimpl
    def hfx_eject(self, script: PlainScript, run: Run) -> None:
        """Say which attention it is."""
        from hfx_plugins.models.attention_impl import NAMES, suited

        kernel = suited(run.model, run)[0] if self.kernel == "auto" else self.kernel
        script.after_loading(f"model.set_attn_implementation({NAMES[kernel]!r})")
