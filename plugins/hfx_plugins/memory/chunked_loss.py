"""The logits of a few tokens at a time, instead of all of them."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from pydantic import PositiveInt

from hfx import Plugin, Run, hookimpl

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfx import PlainScript


class ChunkedLoss(Plugin):
    """Compute head and loss of some tokens at a time: the logits of a large vocabulary are never there as a whole.

    Gradients are computed together with the loss. Heads whose logits are scaled by a constant are handled; those that
    are bent afterwards (soft-capping) are refused, when the first batch shows it.
    """

    chunk: PositiveInt | None = None
    """Labelled tokens whose logits are in memory at a time; none: half the width of the model, and 128 at least, and so
    they take half of what the head's gradient does."""

    @hookimpl(wrapper=True)
    def hfx_model(self, run: Run) -> Generator[None, PreTrainedModel, PreTrainedModel]:
        """Return the model with its head and its loss in one."""
        from hfx_plugins.memory.chunked_loss_impl import install

        model = yield
        install(model, self, run)
        return model

    @hookimpl
    def hfx_eject(self, script: PlainScript) -> None:
        """Say that it is left out."""
        script.say(f"'{self.name}': it computes the same loss in less memory")
