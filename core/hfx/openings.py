"""What a model goes on with, and how much it can write behind it."""

from __future__ import annotations

import sys
from typing import Any


def opening(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text that is to go on: without those that the tokenizer puts behind a whole one."""
    whole: list[int] = tokenizer(text)["input_ids"]
    plain: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    start = next((at for at in range(len(whole) - len(plain) + 1) if whole[at : at + len(plain)] == plain), None)
    return whole if start is None else whole[: start + len(plain)]


def positions_of(model: Any) -> int:
    """Return how long a text of the model can be, where its config says so."""
    told = (getattr(model.config, f"max_{kind}position_embeddings", None) for kind in ("decoder_", ""))
    return next((int(count) for count in told if count), sys.maxsize)


def room_behind(model: Any, given: int, most: int) -> int:
    """Return how many tokens, `most` at most, can be written behind so many: a table of positions has an end."""
    from torch import nn

    tables = (name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Embedding))
    return min(most, positions_of(model) - given) if any("pos" in name or name == "wpe" for name in tables) else most
