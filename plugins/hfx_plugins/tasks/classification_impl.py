"""Rows with labels: how their texts are encoded, and what is learned of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from inspect import signature
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from hfx import ColumnType, Drop, Example, Row
from hfx.errors import ConfigError, DataError, ModelError, PluginError
from hfx_plugins.tasks.label_figures_impl import Confusion, Deviations, Sets
from hfx_plugins.tasks.problems_impl import MultiLabel, Problem, SingleLabel, found, hot_of, problem_of, read
from hfx_plugins.tasks.text_impl import Joined, alone, encode_all, joined, shares, string, text_column

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from hfx import Metrics, PlainScript, Run
    from hfx.protocols import Batch, Values

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
PAIRS = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("question", "sentence"),
    ("query", "document"),
)


@dataclass
class ClassificationTask:
    """Rows as token ids and what is to be told of them."""

    tokenizer: PreTrainedTokenizerBase
    seq_length: int
    options: Values
    """Those of the plugin."""
    frame: Joined
    """What the tokenizer puts before, between and behind texts: kept when they are cut."""
    facts: Values | None = None
    """What `fit` found: the columns of the texts, the problem, its labels; None until fitted."""
    version: Any = 2
    unit: Literal["token", "row", "pair"] = "row"
    model_class: str = "AutoModelForSequenceClassification"

    def __post_init__(self) -> None:
        self._problem = None if self.facts is None else problem_of(self.facts, self.options)

    @property
    def problem(self) -> Problem:
        """What the labels are.

        Raises:
            PluginError: the task is not fitted.
        """
        if self._problem is None:
            raise PluginError("'classification' was asked before it knows its labels; call fitted() first")
        return self._problem

    @property
    def texts(self) -> list[str]:
        """The columns of the texts."""
        return list((self.facts or {"texts": []})["texts"])

    @property
    def columns(self) -> Mapping[str, ColumnType]:
        """Ids and label, and token types where several texts have them; none until fitted."""
        if self._problem is None:
            return {}
        types = {"token_type_ids": ColumnType("list<int32>")} if self._typed else {}
        return {"input_ids": ColumnType("list<int32>")} | types | {"label": self._problem.column}

    @property
    def _typed(self) -> bool:
        return len(self.texts) > 1 and self.frame.types is not None

    @property
    def model_options(self) -> Mapping[str, Any]:
        """Names of the labels, and the token that a decoder has to look past for the last real one."""
        named = {} if self._problem is None else self._problem.model_options
        return {**named, "pad_token_id": self.tokenizer.pad_token_id}

    def fingerprint(self) -> Values:
        """Return everything that decides how a row is encoded, and the labels."""
        frame = [self.frame.before, self.frame.between, self.frame.behind, self.frame.types]
        decides = ("text", "label", "problem", "names", "overflow", "side")
        return {
            "seq_length": self.seq_length,
            "frame": frame,
            **{name: self.options[name] for name in decides},
            "facts": self.facts,
        }

    def fit(self, rows: Iterable[Row]) -> Values:
        """Return the columns of the texts, the problem, and the labels that occur, sorted.

        Raises:
            DataError: the texts' columns are not clear, or the labels make no problem.
        """
        label, names = self.options["label"], self.options["names"]
        rest = iter(rows)
        first = next(rest, None)
        facts = found([] if first is None else chain([first], rest), label, self.options["problem"], names)
        if first is None:
            raise DataError("there are no rows to learn labels from")
        facts["texts"] = text_columns(first, self.options["text"], label)
        problem_of(facts, self.options)
        return facts

    def fitted(self, facts: Values) -> ClassificationTask:
        """Return this task knowing the texts' columns and the labels.

        Raises:
            ConfigError: there is no room for so many texts.
        """
        least = self.seq_length - self.frame.room(self.seq_length, len(facts["texts"])) + len(facts["texts"])
        if self.seq_length < least:
            raise ConfigError(f"'seq_length' {self.seq_length} has no room for the texts; give {least} or more")
        return replace(self, facts=facts, frame=alone(self.tokenizer) if len(facts["texts"]) == 1 else self.frame)

    def examples(self, row: Row) -> list[Example] | Drop:
        """Return the row as one example."""
        return self.examples_of([row])[0]

    def examples_of(self, rows: list[Row]) -> list[list[Example] | Drop]:
        """Return each row as one example, tokenized together."""
        read_rows = [self._read(row) for row in rows]
        wanted = [texts for texts, target in read_rows if not isinstance(target, Drop)]
        ids = iter(encode_all(self.tokenizer, list(chain.from_iterable(wanted))))
        return [
            target if isinstance(target, Drop) else self._whole([next(ids) for _ in texts], target)
            for texts, target in read_rows
        ]

    def _read(self, row: Row) -> tuple[list[str], Any]:
        """Return the row's texts and what the table keeps of its label, or a `Drop`."""
        texts = [string(row, name, "classification.text") for name in self.texts]
        columns = ", ".join(f"'{name}'" for name in self.texts)
        row.marks["classification"] = f"{self.problem.name} in '{self.options['label']}', text in {columns}"
        label = read(row, self.options["label"])
        target = Drop("no_label") if label is None else self.problem.target(label)
        return ["" if text.isspace() else text for text in texts], target

    def _whole(self, texts: list[list[int]], target: Any) -> list[Example] | Drop:
        if not any(texts):
            return Drop("empty")
        room = self.frame.room(self.seq_length, len(texts))
        too_long = sum(map(len, texts)) > room
        if too_long and self.options["overflow"] == "drop":
            return Drop("too_long")
        if too_long:
            cut = zip(texts, shares([len(text) for text in texts], room), strict=True)
            right = self.options["side"] == "right"
            texts = [text[:kept] if right else text[len(text) - kept :] for text, kept in cut]
        ids = self.frame.ids(texts)
        types = {"token_type_ids": self.frame.token_types(texts)} if self._typed else {}
        return [Example({"input_ids": ids, **types, "label": target}, len(ids), 1, too_long)]

    def draw(self, values: Values, rng: np.random.Generator) -> Values:
        """Return ids and label."""
        return {"labels" if name == "label" else name: values[name] for name in self.columns}

    def collated(self) -> Mapping[str, ColumnType]:
        """Return ids, padded with the pad token, and labels."""
        pad = ColumnType("list<int32>", int(self.tokenizer.pad_token_id))
        columns = {"labels" if name == "label" else name: column for name, column in self.columns.items()}
        return columns | {"input_ids": pad}

    def loss(self, model: nn.Module, batch: Batch, metrics: Metrics | None = None) -> Tensor:
        """Return the sum of the loss over the rows: the cross entropy, or the squared error of numbers."""
        inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
        if "token_type_ids" not in signature(model.forward).parameters:
            inputs.pop("token_type_ids", None)  # DistilBERT's tokenizer may tell types that the model does not know
        logits: Tensor = model(**inputs).logits
        labels = batch["labels"]
        if isinstance(metrics, Confusion):
            metrics.update(labels, logits)
        elif isinstance(metrics, Sets):
            metrics.update(hot_of(labels, logits.shape[-1]), logits)
        elif isinstance(metrics, Deviations):
            metrics.update(labels, logits[:, 0])
        return self.problem.loss(logits.float(), labels)

    def metrics(self) -> Metrics:
        """Return the problem's figures, at zero."""
        return self.problem.metrics()


def text_columns(row: Row, given: str | list[str] | None, label: str) -> list[str]:
    """Return the columns of the texts: those given, a usual pair, or the one that `text_column` finds."""
    if given:
        return [given] if isinstance(given, str) else given
    plain = text_column(row, "classification.text", label) if "text" in row.values or "content" in row.values else None
    for pair in PAIRS:
        there = label not in pair and all(isinstance(row.values.get(name), str) for name in pair)
        if there and plain in (None, pair[0]):
            return list(pair)
    return [plain or text_column(row, "classification.text", label)]


def build(tokenizer: PreTrainedTokenizerBase, seq_length: int, options: Values) -> ClassificationTask:
    """Return the task for a tokenizer, with no labels yet.

    Raises:
        ModelError: the tokenizer has no token to pad with.
        ConfigError: no token fits beside those that the tokenizer adds.
    """
    if tokenizer.pad_token_id is None:
        raise ModelError("the tokenizer has no pad token, which 'classification' needs; give one that has")
    least = seq_length - alone(tokenizer).room(seq_length, 1) + 1
    if seq_length < least:
        raise ConfigError(f"'seq_length' {seq_length} has no room for a text; give {least} or more")
    return ClassificationTask(tokenizer, seq_length, options, joined(tokenizer))


def eject(script: PlainScript, run: Run) -> None:
    """Say the loss of a run's problem in plain code."""
    from hfx_plugins.tasks.plain_losses_impl import label_loss, labels_loss, number_loss

    task: Any = run.task
    problem = task.problem
    known = signature(run.model.forward).parameters
    inputs = ["input_ids", "attention_mask"]
    if "token_type_ids" in task.columns and "token_type_ids" in known:
        inputs.append("token_type_ids")
    if isinstance(problem, SingleLabel):
        weights = None if problem.weights is None else list(problem.weights)
        script.take_loss(label_loss, inputs=inputs, weights=weights, label_smoothing=problem.smoothing)
    elif isinstance(problem, MultiLabel):
        weights = None if problem.weights is None else list(problem.weights)
        script.take_loss(labels_loss, inputs=inputs, weights=weights)
    else:
        script.take_loss(number_loss, inputs=inputs)
