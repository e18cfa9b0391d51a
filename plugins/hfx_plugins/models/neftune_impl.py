"""Noise by the length of the example that a token belongs to, padded or packed.

Transformers' own hook sees no mask, and takes the width of the batch for the length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def install(model: PreTrainedModel, alpha: float) -> None:
    """Add noise behind the model's embeddings, while it trains."""
    noise = Noise(alpha)
    model.register_forward_pre_hook(noise.look, with_kwargs=True)
    model.get_input_embeddings().register_forward_hook(noise.add)


class Noise:
    """Two hooks: one sees what the model is called with, the other changes the embeddings."""

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self._inputs: dict[str, Any] = {}

    def __deepcopy__(self, _: Any) -> Noise:
        """Return this one: a copy of the embeddings (peft's `modules_to_save`) is called with the same inputs."""
        return self

    def look(self, _: nn.Module, __: Any, inputs: dict[str, Any]) -> None:
        """Remember what tells lengths."""
        self._inputs = {name: inputs.get(name) for name in ("attention_mask", "position_ids")}

    def add(self, module: nn.Module, _: Any, embeddings: Tensor) -> Tensor:
        """Return the embeddings, `(batch, seq, hidden)`, with noise where the model trains."""
        if not module.training:
            return embeddings
        lengths = lengths_of(embeddings, **self._inputs).clamp(min=1).unsqueeze(-1)
        size = self._alpha / (lengths * embeddings.shape[-1]).sqrt()
        # From the generator that the core seeds for every micro-step: a resumed run draws the same.
        return embeddings + torch.empty_like(embeddings).uniform_(-1, 1) * size.to(embeddings.dtype)


def lengths_of(embeddings: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None) -> Tensor:
    """Return how many tokens the example has that each position belongs to, `(batch, seq)` or `(batch, 1)`."""
    batch, seq = embeddings.shape[:2]
    if attention_mask is not None and attention_mask.shape == (batch, seq):
        return attention_mask.sum(1, keepdim=True)
    if position_ids is None or position_ids.shape != (batch, seq):
        return torch.full((batch, 1), seq, device=embeddings.device)
    example = (position_ids == 0).cumsum(1).clamp(min=1)
    return torch.zeros_like(example).scatter_add(1, example - 1, torch.ones_like(example)).gather(1, example - 1)
