"""Cutting text into examples for next-token prediction, their loss, and the entropy to compare it with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hfx import ColumnType, Drop, Example, Row
from hfx.errors import ConfigError, ModelError
from hfx_plugins.tasks.next_token_impl import IGNORED, NextToken
from hfx_plugins.tasks.text_impl import encode_all, frame, string, text_column

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfx.protocols import Values


@dataclass
class CausalLMTask(NextToken):
    """Rows as token ids, of which the first `unlabelled` carry no loss."""

    tokenizer: PreTrainedTokenizerBase
    seq_length: int
    prefix: tuple[int, ...]
    """What the tokenizer puts before a text (`<s>`)."""
    text: str | None = None
    prompt: str | None = None
    append_eos: bool = True
    overflow: str = "split"
    side: str = "right"
    min_length: int = 1
    version: Any = 1
    columns: Mapping[str, ColumnType] = field(
        default_factory=lambda: {"input_ids": ColumnType("list<int32>"), "unlabelled": ColumnType("int32")}
    )

    def fingerprint(self) -> Values:
        """Return everything that decides how a row is cut."""
        names = ("seq_length", "prefix", "text", "prompt", "append_eos", "overflow", "side", "min_length")
        return {name: getattr(self, name) for name in names} | {"eos": self.tokenizer.eos_token_id}

    def fitted(self, facts: Values) -> CausalLMTask:
        """Return this task."""
        return self

    def examples(self, row: Row) -> list[Example] | Drop:
        """Return the row's parts that have at least one label."""
        return self.examples_of([row])[0]

    def examples_of(self, rows: list[Row]) -> list[list[Example] | Drop]:
        """Return each row's parts, tokenized together."""
        texts: list[str] = []
        prompts: list[str] = []
        for row in rows:
            column = self.text or text_column(row, "causal_lm.text", self.prompt)
            prompts.append(string(row, self.prompt, "causal_lm.prompt") if self.prompt else "")
            texts.append(string(row, column, "causal_lm.text"))
        ids = encode_all(self.tokenizer, ["" if text.isspace() else text for text in texts] + prompts)
        end = [int(self.tokenizer.eos_token_id)] if self.append_eos else []
        return [self._parts(text, prompt, end) for text, prompt in zip(ids[: len(rows)], ids[len(rows) :], strict=True)]

    def _parts(self, text: list[int], prompt: list[int], end: list[int]) -> list[Example] | Drop:
        if not text:
            return Drop("empty")
        if self.overflow == "rolling":
            rolled = _rolled([*self.prefix, *text, *end], self.seq_length)
            return [part for part in rolled if part.length >= self.min_length] or Drop("too_short")
        ids = [*self.prefix, *prompt, *text, *end]
        parts = self._cut(ids, len(self.prefix) + len(prompt) if self.prompt else 0)
        if isinstance(parts, Drop):
            return parts
        long_enough = [part for part in parts if part.length >= self.min_length]
        if not long_enough:
            return Drop("too_short")
        return [part for part in long_enough if part.units] or Drop("no_label_left")

    def draw(self, values: Values, rng: np.random.Generator) -> Values:
        """Return ids and labels: a copy of the ids, but for those that carry no loss.

        The first position never does, so that in a packed sequence no row is predicted from its neighbour.
        """
        labels = np.array(values["input_ids"], dtype=np.int64)
        labels[: max(1, int(values["unlabelled"]))] = IGNORED
        return {"input_ids": values["input_ids"], "labels": labels}

    def _cut(self, ids: list[int], unlabelled: int) -> list[Example] | Drop:
        size = self.seq_length
        if len(ids) <= size:
            return [_example(ids, unlabelled)]
        if self.overflow == "drop":
            return Drop("too_long")
        if self.overflow == "split":
            return [_example(ids[at : at + size], unlabelled - at) for at in range(0, len(ids), size)]
        if self.side == "right":
            return [_example(ids[:size], unlabelled, truncated=True)]
        kept = len(self.prefix)
        gone = len(ids) - size
        hidden = max(kept, unlabelled - gone) if unlabelled else 0
        return [_example([*ids[:kept], *ids[kept + gone :]], hidden, truncated=True)]


def _rolled(ids: list[int], size: int) -> list[Example]:
    """Return parts in which each token but the first is predicted once; a part goes on where the one before ended.

    The last one is as long as the others, of which its tokens may be read again.
    """
    parts, done = [], 1
    while done < len(ids):
        stop = min(done - 1 + size, len(ids))
        start = max(0, stop - size)
        parts.append(_example(ids[start:stop], done - start))
        done = stop
    return parts


def _example(ids: list[int], unlabelled: int, truncated: bool = False) -> Example:
    hidden = min(len(ids), max(0, unlabelled))
    return Example({"input_ids": ids, "unlabelled": hidden}, len(ids), len(ids) - max(1, hidden), truncated)


def build(tokenizer: PreTrainedTokenizerBase, seq_length: int, options: dict[str, Any]) -> CausalLMTask:
    """Return the task for a tokenizer.

    Raises:
        ModelError: the tokenizer has no end token and one is to be appended.
        ConfigError: no token fits beside those that the tokenizer puts first.
    """
    if options["append_eos"] and tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no end token; give one that has, or --causal_lm.append_eos false")
    prefix, _ = frame(tokenizer)
    if options["overflow"] == "rolling" and not prefix:
        first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        if first is None:
            raise ModelError("the tokenizer has no first and no end token, and 'rolling' begins with one; give another")
        prefix = (int(first),)
    if seq_length < len(prefix) + 2:
        raise ConfigError(f"'seq_length' {seq_length} leaves nothing to predict; give {len(prefix) + 2} or more")
    return CausalLMTask(tokenizer, seq_length, prefix, **options)
