"""Activations computed twice instead of kept."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hfx import Plugin, hookimpl

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfx import PlainScript, Run


class GradientCheckpointing(Plugin):
    """Recompute the activations of layers in the backward pass: much less memory for about a third more time."""

    every: int = Field(default=1, ge=1)
    """Recompute every n-th layer only: more memory, less time."""
    keep: Literal["none", "matmuls"] = "none"
    """What a recomputed layer keeps beside its input; `matmuls`: the results of its linear layers and of fused
    attention, so that only what is cheap is computed twice."""

    @hookimpl(wrapper=True)
    def hfx_model(self) -> Generator[None, PreTrainedModel, PreTrainedModel]:
        """Return the model with checkpointing switched on."""
        from hfx_plugins.memory.gradient_checkpointing_impl import enable

        model = yield
        enable(model, self)
        return model

    @hookimpl
    def hfx_eject(self, script: PlainScript, run: Run) -> None:
        """Say that activations are computed anew; which of them changes no loss."""
        name = "activation_checkpointing_enable"  # as of transformers 5.24; the older name warns there
        name = name if hasattr(run.model, name) else "gradient_checkpointing_enable"
        script.after_loading(f'model.{name}({{"use_reentrant": False}})')
        if self.every > 1 or self.keep != "none":
            script.say(f"'{self.name}' spared some layers; here all activations are computed anew, for the same losses")
