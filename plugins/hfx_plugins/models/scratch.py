"""A new model with random weights; the default where the run names no model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveInt

from hfx import Plugin, Problem, hookimpl

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfx import Run


class Scratch(Plugin):
    """A new model of any architecture of transformers, with as many tokens as the tokenizer has."""

    architecture: str = "llama"
    """A `model_type` of transformers: llama, qwen3, gpt2, bert."""
    hidden_size: PositiveInt = 256
    """Width of the model."""
    layers: PositiveInt = 4
    """Number of layers."""
    heads: PositiveInt = 4
    """Attention heads of a layer; they divide the width."""
    kv_heads: PositiveInt | None = None
    """Heads of keys and values; none: as many as there are heads."""
    intermediate_size: PositiveInt | None = None
    """Width inside a layer's feed-forward part; none: 8/3 of the width, rounded up to a multiple of 64."""
    tie_embeddings: bool = True
    """Use one matrix for the embeddings and the output head."""
    max_positions: PositiveInt | None = None
    """Longest sequence; none: `seq_length`."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """More keys of the architecture's config, by their own names; they win over the other options."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report a model that would be left unread."""
        if run.config.model is not None:
            yield Problem(
                f"'scratch' builds a new model and reads no 'model' ('{run.config.model}'); leave that out, "
                "or load it with '--plugin no:scratch'"
            )

    @hookimpl
    def hfx_model(self, run: Run) -> PreTrainedModel:
        """Return a model whose weights follow from the options and the run's seed."""
        from hfx_plugins.models.scratch_impl import build

        return build(self, run)
