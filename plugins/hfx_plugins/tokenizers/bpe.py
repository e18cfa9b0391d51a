"""A byte-level BPE tokenizer, trained on the run's own data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt

from hfx import Plugin, Problem, hookimpl

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfx import Run


class Bpe(Plugin):
    """Byte-level BPE trained on the run's training rows, once: it is cached by their content."""

    vocab_size: int = Field(default=8192, ge=258)
    """Most tokens in the vocabulary: 256 bytes, `<|pad|>`, `<|end|>`, and as many merges as the data gives."""
    min_frequency: PositiveInt = 2
    """How often a pair must occur to be merged."""
    text: str | None = None
    """The column to train on; none: `text` or `content` where a row has one, else every text in it."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report a model whose weights belong to other tokens."""
        if run.config.model is not None:
            yield Problem(
                f"'bpe' trains a new tokenizer, and '{run.config.model}' was trained with its own; "
                "drop it with '--plugin no:bpe'"
            )

    @hookimpl
    def hfx_tokenizer(self, run: Run) -> PreTrainedTokenizerBase:
        from hfx_plugins.tokenizers.bpe_impl import cached

        return cached(run.rows("train"), run.cache / "bpe", self.vocab_size, self.min_frequency, self.text)
