"""Tokenizers that are wrong."""

from __future__ import annotations

import random
from typing import Any

from hfx import hookimpl
from hfx_plugins.tokenizers.model_tokenizer import ModelTokenizer


class PadlessTokenizer(ModelTokenizer):
    """Has no token to pad with."""

    @hookimpl
    def hfx_tokenizer(self, run: Any) -> Any:
        tokenizer = super().hfx_tokenizer(run)
        tokenizer.pad_token = None
        return tokenizer


class EndlessTokenizer(ModelTokenizer):
    """Has no end token."""

    @hookimpl
    def hfx_tokenizer(self, run: Any) -> Any:
        tokenizer = super().hfx_tokenizer(run)
        tokenizer.eos_token = None
        return tokenizer


class LossyTokenizer(ModelTokenizer):
    """Takes one letter for another."""

    @hookimpl
    def hfx_tokenizer(self, run: Any) -> Any:
        from tokenizers import normalizers

        tokenizer = super().hfx_tokenizer(run)
        tokenizer.backend_tokenizer.normalizer = normalizers.Replace("o", "0")
        return tokenizer


class ChanceTokenizer(ModelTokenizer):
    """Learns on rows that it picks by chance."""

    @hookimpl
    def hfx_tokenizer(self, run: Any) -> Any:
        texts = [row.values["text"] for row in run.rows("train")]
        chosen = ["".join(random.sample(text, len(text))) for text in texts]
        return super().hfx_tokenizer(run).train_new_from_iterator(chosen, 400)


class UnsavedTokenizer(ModelTokenizer):
    """Is another one once saved and loaded."""

    @hookimpl
    def hfx_tokenizer(self, run: Any) -> Any:
        tokenizer = super().hfx_tokenizer(run)
        encode = tokenizer.encode
        tokenizer.encode = lambda text, **options: encode(text, **options)[::-1]
        tokenizer.decode = lambda ids, **options: type(tokenizer).decode(tokenizer, ids[::-1], **options)
        return tokenizer


class ShortTokenizer(ModelTokenizer):
    """Is shorter than its vocabulary."""

    @hookimpl
    def hfx_tokenizer(self, run: Any) -> Any:
        tokenizer = super().hfx_tokenizer(run)
        kind = type(tokenizer)
        tokenizer.__class__ = type(kind.__name__, (kind,), {"__len__": lambda self: 20, "__reduce__": _reduce})
        return tokenizer


def _reduce(tokenizer: Any) -> Any:
    return type(tokenizer).__bases__[0].from_pretrained, (tokenizer.name_or_path,)


WRONG = {
    ShortTokenizer: {"ids are below its length"},
    PadlessTokenizer: {"it has tokens to pad with and to end with"},
    EndlessTokenizer: {"it has tokens to pad with and to end with"},
    LossyTokenizer: {"plain text comes back from its ids"},
    ChanceTokenizer: {"the same text has the same ids"},
    UnsavedTokenizer: {"it can be saved and loaded"},
}
