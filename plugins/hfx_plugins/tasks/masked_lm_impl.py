"""Texts as token ids, of which some are masked and guessed."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hfx import ColumnType, Drop, Example, Row
from hfx.errors import ConfigError, ModelError
from hfx_plugins.tasks.next_token_impl import IGNORED, MODEL_INPUTS, NextToken, TokenCounts
from hfx_plugins.tasks.text_impl import encode_all, frame, string, text_column

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from hfx import Metrics
    from hfx.protocols import Batch, Values


@dataclass
class MaskedLMTask(NextToken):
    """Rows as token ids between the tokens that the tokenizer puts around a text."""

    tokenizer: PreTrainedTokenizerBase
    seq_length: int
    frame: tuple[tuple[int, ...], tuple[int, ...]]
    text: str | None
    share: float
    masked: float
    replaced: float
    whole_words: bool
    static: bool
    overflow: str
    version: Any = 1
    model_class: str = "AutoModelForMaskedLM"
    columns: Mapping[str, ColumnType] = field(
        default_factory=lambda: {"input_ids": ColumnType("list<int32>"), "words": ColumnType("list<int32>")}
    )

    def fingerprint(self) -> Values:
        """Return everything that decides how a row is cut; which tokens are guessed is decided later."""
        names = ("seq_length", "frame", "text", "share", "whole_words", "overflow")
        return {name: getattr(self, name) for name in names}

    def fitted(self, facts: Values) -> MaskedLMTask:
        """Return this task."""
        return self

    def examples(self, row: Row) -> list[Example] | Drop:
        """Return the row's parts."""
        return self.examples_of([row])[0]

    def examples_of(self, rows: list[Row]) -> list[list[Example] | Drop]:
        """Return each row's parts, tokenized together."""
        texts = [string(row, self.text or text_column(row, "masked_lm.text", None), "masked_lm.text") for row in rows]
        if not self.whole_words:
            return [self._parts(ids, range(len(ids))) for ids in encode_all(self.tokenizer, texts)]
        outcomes = []
        for text in texts:
            found = self.tokenizer(text, add_special_tokens=False, verbose=False)
            outcomes.append(self._parts(found["input_ids"], found.word_ids()))
        return outcomes

    def _parts(self, ids: list[int], words: Any) -> list[Example] | Drop:
        """Return the parts of a text's tokens, each with the number of the word that it belongs to."""
        before, behind = self.frame
        room = self.seq_length - len(before) - len(behind)
        if not ids:
            return Drop("empty")
        cut = len(ids) > room
        if cut and self.overflow == "drop":
            return Drop("too_long")
        starts = range(0, len(ids), room) if self.overflow == "split" else range(1)
        parts = []
        for at in starts:
            part = [*before, *ids[at : at + room], *behind]
            named = [-1] * len(before) + [int(word) for word in words[at : at + room]] + [-1] * len(behind)
            parts.append(
                Example(
                    {"input_ids": part, "words": named},
                    len(part),
                    self._guessed(len(part) - len(before) - len(behind)),
                    cut and self.overflow == "truncate",
                )
            )
        return parts

    def _guessed(self, tokens: int) -> int:
        return max(1, round(self.share * tokens))

    def draw(self, values: Values, rng: np.random.Generator) -> Values:
        """Return ids, some of them masked or replaced, and labels: what those were."""
        ids = np.array(values["input_ids"], dtype=np.int64)
        if self.static:
            rng = np.random.Generator(np.random.Philox(key=zlib.crc32(ids.tobytes())))
        chosen = self._chosen(np.asarray(values["words"]), rng)
        labels = np.full(len(ids), IGNORED, dtype=np.int64)
        labels[chosen] = ids[chosen]
        fate = rng.random(len(chosen))
        ids[chosen[fate < self.masked]] = self.tokenizer.mask_token_id
        other = chosen[(fate >= self.masked) & (fate < self.masked + self.replaced)]
        ids[other] = rng.integers(len(self.tokenizer), size=len(other))
        return {"input_ids": ids, "labels": labels}

    def _chosen(self, words: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the positions of the tokens that are guessed, those of whole words."""
        names, of_word = np.unique(words[words >= 0], return_inverse=True)
        sizes = np.bincount(of_word)
        order = rng.permutation(len(names))
        enough = int(np.searchsorted(np.cumsum(sizes[order]), self._guessed(len(of_word)))) + 1
        taken = np.zeros(len(names), dtype=bool)
        taken[order[:enough]] = True
        return np.flatnonzero(words >= 0)[taken[of_word]]

    def drawn_units(self, values: Values) -> int:
        """Return how many tokens are guessed: of whole words more than the share asks for."""
        return int((values["labels"] != IGNORED).sum())

    def loss(self, model: nn.Module, batch: Batch, metrics: Metrics | None = None) -> Tensor:
        """Return the sum of the cross entropy over the tokens that are guessed."""
        from hfx import masked_loss

        if isinstance(metrics, TokenCounts):
            metrics.update(batch["labels"])
        return masked_loss(model, {name: batch[name] for name in MODEL_INPUTS if name in batch}, batch["labels"])


def build(tokenizer: PreTrainedTokenizerBase, seq_length: int, options: dict[str, Any]) -> MaskedLMTask:
    """Return the task for a tokenizer.

    Raises:
        ModelError: the tokenizer has no token for what is masked, or does not tell words.
        ConfigError: no token fits beside those that the tokenizer adds.
    """
    if tokenizer.mask_token_id is None:
        raise ModelError(
            "the tokenizer has no mask token, which 'masked_lm' needs; name a model that was made to guess tokens "
            "(bert, roberta, modernbert)"
        )
    if options["whole_words"] and not tokenizer.is_fast:
        raise ModelError("the tokenizer does not say where words are; add '--masked-lm.whole-words false'")
    around = frame(tokenizer)
    least = len(around[0]) + len(around[1]) + 1
    if seq_length < least:
        raise ConfigError(f"'seq_length' {seq_length} has no room for a text; give {least} or more")
    return MaskedLMTask(tokenizer, seq_length, around, **options)
