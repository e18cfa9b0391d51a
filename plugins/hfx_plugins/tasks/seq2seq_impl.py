"""Pairs of texts as token ids of a source and labels of a target, and their loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hfx import ColumnType, Drop, Example, Row
from hfx.errors import ConfigError, DataError, ModelError
from hfx_plugins.tasks.generated_scores_impl import PAD, Scored, Scoring, as_bytes, from_bytes, scoring_of
from hfx_plugins.tasks.next_token_impl import NextToken, TokenCounts
from hfx_plugins.tasks.text_impl import columns, require
from hfx_plugins.tasks.writer_impl import Writer

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from hfx import Metrics
    from hfx.protocols import Batch, Values

PAIRS = (
    ("source", "target"), ("document", "summary"), ("article", "highlights"), ("dialogue", "summary"),
    ("text", "summary"), ("input", "output"),
)  # fmt: skip
"""Columns that are a source and its target, in the order in which they are looked for."""


@dataclass
class Seq2SeqTask(NextToken):
    """Rows as the ids of a source, and those of a target."""

    tokenizer: PreTrainedTokenizerBase
    seq_length: int
    source: str | None
    target: str | None
    prefix: str | None
    target_length: int
    overflow: str
    label_smoothing: float
    scoring: Scoring | None
    version: Any = 2
    model_class: str = "AutoModelForSeq2SeqLM"
    columns: Mapping[str, ColumnType] = field(
        default_factory=lambda: {
            "input_ids": ColumnType("list<int32>"),
            "target": ColumnType("list<int32>"),
            "target_text": ColumnType("string"),
        }
    )

    def fingerprint(self) -> Values:
        """Return everything that decides how a row is encoded."""
        names = ("seq_length", "source", "target", "prefix", "target_length", "overflow")
        return {name: getattr(self, name) for name in names}

    def fitted(self, facts: Values) -> Seq2SeqTask:
        """Return this task."""
        return self

    def examples(self, row: Row) -> list[Example] | Drop:
        """Return the row as one example."""
        return self.examples_of([row])[0]

    def examples_of(self, rows: list[Row]) -> list[list[Example] | Drop]:
        """Return each row as one example, tokenized together."""
        read = [self._read(row) for row in rows]
        pairs = [found for found in read if not isinstance(found, Drop)]
        encoded: Iterator[tuple[list[int], list[int], str]] = iter(())
        if pairs:
            texts = [target for _, target in pairs]
            sources = self.tokenizer([source for source, _ in pairs], verbose=False)["input_ids"]
            targets = self.tokenizer(text_target=texts, verbose=False)["input_ids"]
            encoded = iter(zip(sources, targets, texts, strict=True))
        return [found if isinstance(found, Drop) else self._example(*next(encoded)) for found in read]

    def _read(self, row: Row) -> tuple[str, str] | Drop:
        names, values = self._where(row)
        texts = [values.get(name) for name in names]
        if not all(isinstance(text, str) for text in texts):
            return Drop("no_source" if not isinstance(texts[0], str) else "no_target")
        source, target = map(str, texts)
        if not source.strip() or not target.strip():
            return Drop("empty_source" if not source.strip() else "empty_target")
        row.marks["seq2seq"] = f"sources in '{names[0]}', targets in '{names[1]}'"
        return (self.prefix or "") + source, target

    def _where(self, row: Row) -> tuple[tuple[str, str], Values]:
        """Return the names of source and target, and what has them.

        Raises:
            DataError: the row does not say which they are.
        """
        values = row.values.get("translation")
        named = (self.source, self.target) if self.source and self.target else None
        if isinstance(values, dict) and (named is None or named[0] not in row.values):
            if named is None:
                raise DataError(
                    f"{row.place}: 'translation' has {', '.join(map(repr, values))}; say which way with "
                    "--seq2seq.source and --seq2seq.target"
                )
            return named, values
        if named is not None:
            require(row, named[0], "seq2seq.source")
            require(row, named[1], "seq2seq.target")
            return named, row.values
        for pair in PAIRS:
            if set(pair) <= row.values.keys():
                return pair, row.values
        raise DataError(
            f"{row.place}: no columns that are a source and a target; name them with --seq2seq.source and "
            f"--seq2seq.target; there are {columns(row)}"
        )

    def _example(self, source: list[int], target: list[int], text: str) -> list[Example] | Drop:
        cut = len(source) > self.seq_length or len(target) > self.target_length
        if cut and self.overflow == "drop":
            return Drop("too_long")
        source, target = _cut(source, self.seq_length), _cut(target, self.target_length)
        # What is scored is compared with the text itself: tokens may not say all of it, and were cut.
        values = {"input_ids": source, "target": target, "target_text": text}
        return [Example(values, len(source), len(target), cut)]

    def draw(self, values: Values, rng: np.random.Generator) -> Values:
        """Return ids and labels, and the bytes of the target where an evaluation needs them."""
        drawn = {"input_ids": values["input_ids"], "labels": values["target"]}
        return drawn | ({"target_text": as_bytes(values["target_text"])} if self.scoring else {})

    def collated(self) -> Mapping[str, ColumnType]:
        """Return the columns after `draw`, with what pads them."""
        scored = {"target_text": ColumnType("list<int32>", PAD)} if self.scoring else {}
        return {**super().collated(), **scored}

    def metrics(self) -> Metrics:
        """Return the counts of labels, and the sums of scores where there are some, at zero."""
        counts = super().metrics()
        return Scored(counts, self.scoring) if self.scoring else counts

    def loss(self, model: nn.Module, batch: Batch, metrics: Metrics | None = None) -> Tensor:
        """Return the sum of the cross entropy over the tokens of the targets."""
        from hfx import masked_loss

        labels, shifted = batch["labels"], getattr(model, "prepare_decoder_input_ids_from_labels", None)
        if shifted is None:
            raise ModelError(f"a '{type(model).__name__}' does not say what its decoder reads; use another model")
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        if isinstance(metrics, Scored):
            metrics.update(metrics.writer.write(model, inputs), from_bytes(batch["target_text"]))
        counts = metrics.counts if isinstance(metrics, Scored) else metrics
        if isinstance(counts, TokenCounts):
            counts.update(labels)
        smoothing = self.label_smoothing if model.training else 0.0
        # A label is that of the position it is at: the decoder reads the target a place later.
        return masked_loss(model, inputs | {"decoder_input_ids": shifted(labels)}, labels, smoothing)


def _cut(ids: list[int], length: int) -> list[int]:
    """Return ids that fit, with the last, which ends a text."""
    return ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]


def build(tokenizer: PreTrainedTokenizerBase, seq_length: int, options: dict[str, Any]) -> Seq2SeqTask:
    """Return the task for a tokenizer.

    Raises:
        ModelError: the tokenizer has no token to pad with, or none that ends a text.
        ConfigError: no token fits beside the one that ends a text, or the package of a score is missing.
    """
    for name, what in (("pad_token_id", "pad"), ("eos_token_id", "end")):
        if getattr(tokenizer, name) is None:
            raise ModelError(f"the tokenizer has no {what} token, which 'seq2seq' needs; give one that has")
    length = options["target_length"] or seq_length
    if min(seq_length, length) < 2:
        raise ConfigError("'seq_length' and 'seq2seq.target_length' have no room for a text; give 2 or more")
    writer = Writer(tokenizer, options["max_new_tokens"] or length, options["num_beams"])
    read = {name: options[name] for name in ("source", "target", "prefix", "overflow", "label_smoothing")}
    scoring = scoring_of("seq2seq", options, writer)
    return Seq2SeqTask(tokenizer, seq_length, target_length=length, scoring=scoring, **read)
