"""Switching checkpointing on, in the releases of transformers that hfx supports."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import create_selective_checkpoint_contexts
from transformers.modeling_layers import GradientCheckpointingLayer

from hfx.errors import IncompatibleError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfx_plugins.memory.gradient_checkpointing import GradientCheckpointing

_aten = torch.ops.aten
MATMULS: list[Any] = [
    _aten.mm.default,
    _aten.addmm.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
]
"""Products with weights, and attention that keeps no scores. Batched products are left out: they are the scores."""


def enable(model: PreTrainedModel, options: GradientCheckpointing) -> None:
    """Make every n-th layer recompute its activations.

    Raises:
        IncompatibleError: the architecture cannot, or not layer by layer.
    """
    name = type(model).__name__
    if not model.supports_gradient_checkpointing:
        raise IncompatibleError(f"'{name}' does not support checkpointing; add '--plugin no:gradient_checkpointing'")
    how: dict[str, Any] = {"use_reentrant": False}
    if options.keep == "matmuls":
        how["context_fn"] = partial(create_selective_checkpoint_contexts, MATMULS)
    # The older name warns in transformers 5.24 and is the only one before it.
    enable_checkpointing = (
        getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    )
    enable_checkpointing(how)
    if options.every > 1:
        _thin_out(model, options.every)


def _thin_out(model: PreTrainedModel, every: int) -> None:
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise IncompatibleError(
            f"'{type(model).__name__}' is checkpointed as a whole; set 'gradient_checkpointing.every' to 1"
        )
    for index, layer in enumerate(layers):
        layer.gradient_checkpointing = index % every == 0
