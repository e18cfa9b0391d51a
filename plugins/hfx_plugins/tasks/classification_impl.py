"""Rows with a label: how they are encoded, their loss, and the confusion of labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from hfx import ColumnType, Drop, Example, Row
from hfx.errors import ConfigError, DataError, ModelError, PluginError
from hfx_plugins.tasks.text_impl import encode_all, frame, require, string, text_column

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from hfx import Metrics
    from hfx.protocols import Batch, Values

IGNORED = -100
MOST_LABELS = 1000
MODEL_INPUTS = ("input_ids", "attention_mask")

Label: TypeAlias = "int | str"


class Confusion:
    """How often each label was taken for each: `state[label, prediction]`."""

    def __init__(self, labels: int) -> None:
        import torch

        self.state: Tensor = torch.zeros(labels, labels, dtype=torch.float64)

    def update(self, labels: Tensor, logits: Tensor) -> None:
        """Count a batch: labels `(batch,)`, logits `(batch, labels)`."""
        import torch

        size = len(self.state)
        pairs = (labels * size + logits.argmax(-1)).cpu()
        self.state += torch.bincount(pairs, minlength=size * size).view(size, size).double()

    def compute(self) -> dict[str, float]:
        """Return accuracy, and the mean F1 over the labels that occur or were predicted; nothing without rows."""
        total = self.state.sum()
        if total == 0:
            return {}
        right, true, predicted = self.state.diagonal(), self.state.sum(1), self.state.sum(0)
        occurs = (true + predicted) > 0
        f1 = 2 * right[occurs] / (true + predicted)[occurs]
        return {"accuracy": float(right.sum() / total), "macro_f1": float(f1.mean())}


@dataclass
class ClassificationTask:
    """Rows as token ids and the position of their label among the labels."""

    tokenizer: PreTrainedTokenizerBase
    seq_length: int
    frame: tuple[tuple[int, ...], tuple[int, ...]]
    """What the tokenizer puts before and behind a text: kept when the text is cut."""
    text: str | None = None
    label: str = "label"
    overflow: str = "truncate"
    side: str = "right"
    labels: tuple[Label, ...] = ()
    """Sorted; empty until fitted."""
    version: Any = 1
    unit: Literal["token", "row", "pair"] = "row"
    model_class: str = "AutoModelForSequenceClassification"
    columns: Mapping[str, ColumnType] = field(
        default_factory=lambda: {"input_ids": ColumnType("list<int32>"), "label": ColumnType("int32")}
    )

    model_options: Mapping[str, Any] = field(default_factory=dict)
    """Names of the labels, and the token that a decoder has to look past for the last real one."""

    def fingerprint(self) -> Values:
        """Return everything that decides how a row is encoded, and the labels."""
        names = ("seq_length", "frame", "text", "label", "overflow", "side")
        return {name: getattr(self, name) for name in names} | {"labels": list(self.labels)}

    def fit(self, rows: Iterable[Row]) -> Values:
        """Return the labels that occur, sorted.

        Raises:
            DataError: there are too many to be classes, fewer than two, or numbers among names.
        """
        first: dict[Label, Row] = {}
        for row in rows:
            label = _label(row, self.label)
            if label is not None:
                first.setdefault(label, row)
            if len(first) > MOST_LABELS:
                raise DataError(
                    f"the column '{self.label}' holds more than {MOST_LABELS} different labels;"
                    " name the label's column with --classification.label"
                )
        return {"labels": _sorted(first, self.label)}

    def fitted(self, facts: Values) -> ClassificationTask:
        """Return this task knowing the labels."""
        names = [str(label) for label in facts["labels"]]
        options = {
            "num_labels": len(names),
            "id2label": dict(enumerate(names)),
            "label2id": {name: index for index, name in enumerate(names)},
            "pad_token_id": self.tokenizer.pad_token_id,
        }
        return replace(self, labels=tuple(facts["labels"]), model_options=options)

    def examples(self, row: Row) -> list[Example] | Drop:
        """Return the row as one example."""
        return self.examples_of([row])[0]

    def examples_of(self, rows: list[Row]) -> list[list[Example] | Drop]:
        """Return each row as one example, tokenized together."""
        found = [self._read(row) for row in rows]
        ids = iter(encode_all(self.tokenizer, [text for text, label in found if isinstance(label, int)]))
        return [self._whole(next(ids), label) if isinstance(label, int) else label for _, label in found]

    def _read(self, row: Row) -> tuple[str, int | Drop]:
        """Return the row's text and the position of its label."""
        text = string(row, self.text or text_column(row, "classification.text", self.label), "classification.text")
        label = _label(row, self.label)
        if label is None:
            return text, Drop("no_label")
        if label not in self.labels:
            return text, Drop("unknown_label")
        return ("" if text.isspace() else text), self.labels.index(label)

    def _whole(self, ids: list[int], label: int) -> list[Example] | Drop:
        if not ids:
            return Drop("empty")
        before, behind = self.frame
        room = self.seq_length - len(before) - len(behind)
        too_long = len(ids) > room
        if too_long and self.overflow == "drop":
            return Drop("too_long")
        kept = ids[:room] if self.side == "right" else ids[-room:]
        whole = [*before, *kept, *behind]
        return [Example({"input_ids": whole, "label": label}, len(whole), 1, too_long)]

    def draw(self, values: Values, rng: np.random.Generator) -> Values:
        """Return ids and label."""
        return {"input_ids": values["input_ids"], "labels": values["label"]}

    def collated(self) -> Mapping[str, ColumnType]:
        """Return ids, padded with the pad token, and labels."""
        pad = ColumnType("list<int32>", int(self.tokenizer.pad_token_id))
        return {"input_ids": pad, "labels": ColumnType("int32", IGNORED)}

    def loss(self, model: nn.Module, batch: Batch, metrics: Metrics | None = None) -> Tensor:
        """Return the sum of the cross entropy over the rows."""
        from torch.nn.functional import cross_entropy

        logits: Tensor = model(**{name: batch[name] for name in MODEL_INPUTS}).logits
        if isinstance(metrics, Confusion):
            metrics.update(batch["labels"], logits)
        return cross_entropy(logits.float(), batch["labels"], reduction="sum")

    def metrics(self) -> Metrics:
        """Return the confusion of labels, at zero."""
        if not self.labels:
            raise PluginError("'classification' was asked for metrics before it knows its labels; call fitted() first")
        return Confusion(len(self.labels))


def _label(row: Row, column: str) -> Label | None:
    require(row, column, "classification.label")
    value = row.values[column]
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | str):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    kind = type(value).__name__
    raise DataError(f"{row.place}: the label in '{column}' is {kind}; it has to be a whole number or a name")


def _sorted(first: dict[Label, Row], column: str) -> list[Label]:
    numbers = sorted(label for label in first if isinstance(label, int))
    names = sorted(label for label in first if isinstance(label, str))
    if numbers and names:
        raise DataError(
            f"the column '{column}' holds numbers and names: {numbers[0]} in {first[numbers[0]].place},"
            f" '{names[0]}' in {first[names[0]].place}; write all of them as names"
        )
    if len(first) < 2:
        found = f"one label only: '{next(iter(first))}'" if first else "no label"
        raise DataError(f"the column '{column}' holds {found}; there is nothing to tell apart")
    return [*numbers, *names]


def build(tokenizer: PreTrainedTokenizerBase, seq_length: int, options: dict[str, Any]) -> ClassificationTask:
    """Return the task for a tokenizer, with no labels yet.

    Raises:
        ModelError: the tokenizer has no token to pad with.
        ConfigError: no token fits beside those that the tokenizer adds.
    """
    if tokenizer.pad_token_id is None:
        raise ModelError("the tokenizer has no pad token, which 'classification' needs; give one that has")
    before, behind = frame(tokenizer)
    least = len(before) + len(behind) + 1
    if seq_length < least:
        raise ConfigError(f"'seq_length' {seq_length} has no room for a text; give {least} or more")
    return ClassificationTask(tokenizer, seq_length, (before, behind), **options)
