"""Cutting text into examples for next-token prediction, their loss, and the entropy to compare it with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hfx import ColumnType, Drop, Example, Row
from hfx.errors import ConfigError, ModelError
from hfx_plugins.tasks.text_impl import encode_all, frame, string, text_column

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from hfx import Metrics
    from hfx.protocols import Batch, Values

IGNORED = -100
MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids")


class TokenCounts:
    """How often each token was a label: its entropy is the loss of a model that knows frequencies and no context."""

    def __init__(self, vocab_size: int) -> None:
        import torch

        self.state: Tensor = torch.zeros(vocab_size, dtype=torch.float64)

    def update(self, labels: Tensor) -> None:
        """Count the labels of a batch, `(batch, seq)`."""
        import torch

        seen = labels[labels != IGNORED].flatten().cpu()
        self.state += torch.bincount(seen, minlength=len(self.state)).double()

    def compute(self) -> dict[str, float]:
        """Return the entropy of the labels in nats; nothing where there was none."""
        total = self.state.sum()
        if total == 0:
            return {}
        shares = self.state[self.state > 0] / total
        return {"unigram_entropy": float(-(shares * shares.log()).sum())}


@dataclass
class CausalLMTask:
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
    unit: Literal["token", "row", "pair"] = "token"
    model_class: str = "AutoModelForCausalLM"
    columns: Mapping[str, ColumnType] = field(
        default_factory=lambda: {"input_ids": ColumnType("list<int32>"), "unlabelled": ColumnType("int32")}
    )
    model_options: Mapping[str, Any] = field(default_factory=dict)

    def fingerprint(self) -> Values:
        """Return everything that decides how a row is cut."""
        names = ("seq_length", "prefix", "text", "prompt", "append_eos", "overflow", "side", "min_length")
        return {name: getattr(self, name) for name in names} | {"eos": self.tokenizer.eos_token_id}

    def fit(self, rows: Iterable[Row]) -> Values:
        """Learn nothing: there are no labels to collect."""
        return {}

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

    def collated(self) -> Mapping[str, ColumnType]:
        """Return ids, padded with the pad token, and labels, padded with what carries no loss."""
        pad = self.tokenizer.pad_token_id
        return {
            "input_ids": ColumnType("list<int32>", 0 if pad is None else int(pad)),
            "labels": ColumnType("list<int32>", IGNORED),
        }

    def loss(self, model: nn.Module, batch: Batch, metrics: Metrics | None = None) -> Tensor:
        """Return the sum of the cross entropy over the labels."""
        from hfx import causal_loss  # torch with it, which the processes that tokenize go without

        inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
        if isinstance(metrics, TokenCounts):
            metrics.update(batch["labels"])
        return causal_loss(model, inputs, batch["labels"])

    def metrics(self) -> Metrics:
        """Return the counts of labels, at zero."""
        return TokenCounts(1 + max(self.tokenizer.get_vocab().values()))

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
    if seq_length < len(prefix) + 2:
        raise ConfigError(f"'seq_length' {seq_length} leaves nothing to predict; give {len(prefix) + 2} or more")
    return CausalLMTask(tokenizer, seq_length, prefix, **options)
