"""What both model plugins share: seeded building, and whether a model can hold the run's tokens and positions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from hfx.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfx import Run


@contextmanager
def seeded(run: Run) -> Iterator[None]:
    """Draw new weights from the run's seed alone, and leave the process's random state as it was."""
    devices = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(run.config.seed)
        yield


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer with more tokens than the model has embeddings.

    Raises:
        ModelError: ids of the tokenizer would lie outside the model's embeddings.
    """
    rows = int(model.get_input_embeddings().weight.shape[0])
    if len(tokenizer) > rows:
        raise ModelError(
            f"the tokenizer has {len(tokenizer):,} tokens and the model embeddings for {rows:,}; "
            "use the tokenizer that belongs to the model"
        )


def positions(model: PreTrainedModel) -> int | None:
    """Return the longest sequence the model's positions can tell apart, or None where nothing limits it."""
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for name, module in model.named_modules():
        # roberta and its kin number positions from after the padding index, so that many are never used.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.num_embeddings - module.padding_idx - 1)
    return most if isinstance(most, int) and most > 0 else None


def check_positions(model: PreTrainedModel, seq_length: int) -> None:
    """Refuse sequences longer than the model's positions.

    Raises:
        ModelError: `seq_length` is larger than what the model was made for.
    """
    most = positions(model)
    if most is not None and seq_length > most:
        raise ModelError(
            f"seq_length {seq_length:,} is longer than the model's {most:,} positions; "
            f"lower seq_length to {most} or less"
        )
