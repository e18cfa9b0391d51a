"""Activations kept elsewhere until the backward pass asks for them."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import NonNegativeInt

from hfx import Plugin, Problem, Run, hookimpl

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfx import PlainScript


class ActivationOffload(Plugin):
    """Keep what the forward pass saves for the backward pass in the host's memory or on disk: the same gradients.

    Floating-point tensors are moved, each once; parameters, buffers and what is smaller than `min_size` stay. With
    `gradient_checkpointing` it is the inputs of the recomputed layers that are moved. An evaluation moves nothing.
    """

    unverified: ClassVar[str] = "`to: cpu` was never tried, for want of an accelerator; `to: disk` was, on a CPU"

    to: Literal["cpu", "disk"] | None = None
    """`cpu`: the host's memory; `disk`: a file without a name in the run's folder, gone with the process however it
    ends; none: `cpu` on an accelerator, else `disk`."""
    min_size: NonNegativeInt = 2**20
    """Bytes below which a tensor stays where it is."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report memory that would be moved to where it is already."""
        # The first of the two checks comes before torch, and only the second knows the device.
        if self.to == "cpu" and "torch" in sys.modules and run.device.type == "cpu":
            yield Problem(
                "'activation_offload.to' is 'cpu', and the run computes there: nothing would be saved; set it to 'disk'"
            )

    @hookimpl(wrapper=True)
    def hfx_model(self, run: Run) -> Generator[None, PreTrainedModel, PreTrainedModel]:
        """Return the model, whose forward pass hands over what it saves."""
        from hfx_plugins.memory.activation_offload_impl import install

        model = yield
        install(model, self, run)
        return model

    @hookimpl
    def hfx_eject(self, script: PlainScript) -> None:
        """Say that it is left out."""
        script.say(f"'{self.name}': it puts activations elsewhere until they are needed")
