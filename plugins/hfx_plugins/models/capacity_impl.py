"""What both model plugins share: quiet and seeded building, and whether a model can hold the run's tokens."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING, Any

import torch

from hfx.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from hfx import Run


@contextmanager
def seeded(run: Run) -> Iterator[None]:
    """Draw new weights from the run's seed alone, and leave the process's random state as it was."""
    devices = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(run.config.seed)
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the progress bars, warnings and reports of transformers off the user's terminal."""
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging as chatter

    levels = hub.get_verbosity(), chatter.get_verbosity()
    bars = chatter.is_progress_bar_enabled()
    hub.set_verbosity(logging.CRITICAL)
    chatter.set_verbosity(logging.CRITICAL)
    chatter.disable_progress_bar()
    try:
        # Reading a .gguf file draws a bar that no setting of transformers reaches.
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        hub.set_verbosity(levels[0])
        chatter.set_verbosity(levels[1])
        if bars:
            chatter.enable_progress_bar()


def causal_options(config: PreTrainedConfig, model_class: str) -> dict[str, Any]:
    """Return what makes an encoder's config causal: without it, bert would see the tokens that it has to guess."""
    causal = model_class == "AutoModelForCausalLM" and hasattr(config, "is_decoder")
    return {"is_decoder": True} if causal else {}


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, without the full stop."""
    return str(error).strip().split("\n")[0].rstrip(".:")


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer with more tokens than the model has embeddings.

    Raises:
        ModelError: ids of the tokenizer would lie outside the model's embeddings.
    """
    weight = model.get_input_embeddings().weight
    # An engine that partitions parameters (ZeRO-3) leaves an empty one and keeps its shape in `ds_shape`.
    rows = int(getattr(weight, "ds_shape", weight.shape)[0])
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
