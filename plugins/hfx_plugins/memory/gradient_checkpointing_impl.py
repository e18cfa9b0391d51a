"""Switching checkpointing on, in the releases of transformers that hfx supports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers.modeling_layers import GradientCheckpointingLayer

from hfx.errors import IncompatibleError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def enable(model: PreTrainedModel, every: int) -> None:
    """Make every n-th layer recompute its activations.

    Raises:
        IncompatibleError: the architecture cannot, or not layer by layer.
    """
    name = type(model).__name__
    if not model.supports_gradient_checkpointing:
        raise IncompatibleError(f"'{name}' does not support checkpointing; add '--plugin no:gradient_checkpointing'")
    # The older name warns in transformers 5.24 and is the only one before it.
    enable_checkpointing = (
        getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    )
    enable_checkpointing({"use_reentrant": False})
    if every > 1:
        _thin_out(model, every)


def _thin_out(model: PreTrainedModel, every: int) -> None:
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise IncompatibleError(
            f"'{type(model).__name__}' is checkpointed as a whole; set 'gradient_checkpointing.every' to 1"
        )
    for index, layer in enumerate(layers):
        layer.gradient_checkpointing = index % every == 0
