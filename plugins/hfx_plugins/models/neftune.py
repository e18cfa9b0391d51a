"""Noise on the embeddings (https://arxiv.org/abs/2310.05914)."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from pydantic import PositiveFloat

from hfx import Plugin, hookimpl

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Neftune(Plugin):
    """Add uniform noise to the embeddings in training, which helps a model tuned on few instructions to generalize.

    Noise is at most `alpha` over the root of an example's tokens times the width of the embeddings. An evaluation has
    none.
    """

    alpha: PositiveFloat = 5.0
    """Size of the noise; 5 to 15 are usual."""

    @hookimpl(wrapper=True)
    def hfx_model(self) -> Generator[None, PreTrainedModel, PreTrainedModel]:
        """Return the model with noise behind its embeddings."""
        from hfx_plugins.models.neftune_impl import install

        model = yield
        install(model, self.alpha)
        return model
