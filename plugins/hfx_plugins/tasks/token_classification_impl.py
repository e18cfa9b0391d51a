"""Rows of labelled words: how they are encoded, and the loss of their labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from hfx import ColumnType, Drop, Example, Row
from hfx.errors import ConfigError, DataError, ModelError, PluginError
from hfx_plugins.tasks.entities_impl import Found
from hfx_plugins.tasks.text_impl import columns, frame, require

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from hfx import Metrics
    from hfx.protocols import Batch, Values

IGNORED = -100
MOST_LABELS = 1000
MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids")
WORDS, LABELS = ("tokens", "words"), ("ner_tags", "tags", "labels")


@dataclass
class TokenClassificationTask:
    """Rows as token ids, the first of each word with the position of its label among the labels."""

    tokenizer: PreTrainedTokenizerBase
    seq_length: int
    frame: tuple[tuple[int, ...], tuple[int, ...]]
    """What the tokenizer puts before and behind a text."""
    words: str | None
    labels: str | None
    names: list[str]
    overflow: str
    known: tuple[str, ...] = ()
    """All labels; empty until fitted."""
    version: Any = 1
    unit: Literal["token", "row", "pair"] = "token"
    model_class: str = "AutoModelForTokenClassification"
    columns: Mapping[str, ColumnType] = field(
        default_factory=lambda: {"input_ids": ColumnType("list<int32>"), "labels": ColumnType("list<int32>")}
    )
    model_options: Mapping[str, Any] = field(default_factory=dict)

    def fingerprint(self) -> Values:
        """Return everything that decides how a row is encoded, and the labels."""
        names = ("seq_length", "frame", "words", "labels", "names", "overflow")
        return {name: getattr(self, name) for name in names} | {"known": list(self.known)}

    def fit(self, rows: Iterable[Row]) -> Values:
        """Return the labels that occur, sorted; where they are numbers, all up to the greatest.

        Raises:
            DataError: there are too many to be classes, fewer than two, or numbers among names.
        """
        found: dict[str | int, Row] = {}
        for row in rows:
            read = self._read(row)
            for label in () if isinstance(read, Drop) else read[1]:
                found.setdefault(label, row)
            if len(found) > MOST_LABELS:
                raise DataError(
                    f"there are more than {MOST_LABELS} different labels; name their column with "
                    "--token-classification.labels"
                )
        return {"labels": _all_labels(found, self.names)}

    def fitted(self, facts: Values) -> TokenClassificationTask:
        """Return this task knowing the labels."""
        known = facts["labels"]
        options = {
            "num_labels": len(known),
            "id2label": dict(enumerate(known)),
            "label2id": {name: index for index, name in enumerate(known)},
        }
        return replace(self, known=tuple(known), model_options=options)

    def examples(self, row: Row) -> list[Example] | Drop:
        """Return the row's parts."""
        read = self._read(row)
        if isinstance(read, Drop):
            return read
        words, labels = read
        numbers = {name: index for index, name in enumerate(self.known)}
        named = [self._name(label) for label in labels]
        if any(name not in numbers for name in named):
            return Drop("unknown_label")
        tokens = self._tokens(words)
        before, behind = self.frame
        room = self.seq_length - len(before) - len(behind)
        cut = sum(map(len, tokens)) > room
        if cut and self.overflow == "drop":
            return Drop("too_long")
        parts = list(_parts(tokens, [numbers[name] for name in named], room))
        if self.overflow == "truncate":
            parts = parts[:1]
        found = []
        for ids, of_ids in parts:
            units = sum(label != IGNORED for label in of_ids)
            if units:
                whole = [*before, *ids, *behind]
                padded = [IGNORED] * len(before) + of_ids + [IGNORED] * len(behind)
                truncated = cut and self.overflow == "truncate"
                found.append(Example({"input_ids": whole, "labels": padded}, len(whole), units, truncated))
        return found or Drop("empty")

    def _read(self, row: Row) -> tuple[list[str], list[Any]] | Drop:
        """Return the row's words and labels.

        Raises:
            DataError: it does not say which columns they are in.
        """
        names = [self.words or _column(row, WORDS, _are_words, "words", None)]
        names.append(self.labels or _column(row, LABELS, _are_labels, "labels", names[0]))
        for name, option in zip(names, ("words", "labels"), strict=True):
            require(row, name, f"token-classification.{option}")
        words, labels = (row.values[name] for name in names)
        if words is None or labels is None:
            return Drop("no_words" if words is None else "no_label")
        if not _are_words(words) or not _are_labels(labels):
            return Drop("words_of_another_kind" if not _are_words(words) else "labels_of_another_kind")
        if len(words) != len(labels):
            return Drop("words_and_labels_differ_in_number")
        row.marks["token_classification"] = f"words in '{names[0]}', labels in '{names[1]}'"
        return (words, labels) if words else Drop("empty")

    def _name(self, label: Any) -> str:
        if isinstance(label, int) and 0 <= label < len(self.names):
            return self.names[label]
        return str(label)

    def _tokens(self, words: list[str]) -> list[list[int]]:
        """Return the tokens of each word."""
        found = self.tokenizer(words, is_split_into_words=True, add_special_tokens=False, verbose=False)
        tokens: list[list[int]] = [[] for _ in words]
        for token, word in zip(found["input_ids"], found.word_ids(), strict=True):
            tokens[word].append(token)
        return tokens

    def draw(self, values: Values, rng: np.random.Generator) -> Values:
        """Return ids and labels."""
        return {"input_ids": values["input_ids"], "labels": values["labels"]}

    def collated(self) -> Mapping[str, ColumnType]:
        """Return ids, padded with the pad token, and labels, padded with what carries no loss."""
        pad = ColumnType("list<int32>", int(self.tokenizer.pad_token_id))
        return {"input_ids": pad, "labels": ColumnType("list<int32>", IGNORED)}

    def loss(self, model: nn.Module, batch: Batch, metrics: Metrics | None = None) -> Tensor:
        """Return the sum of the cross entropy over the words."""
        from torch.nn.functional import cross_entropy

        labels = batch["labels"]
        logits: Tensor = model(**{name: batch[name] for name in MODEL_INPUTS if name in batch}).logits
        if isinstance(metrics, Found):
            for of_row, predicted in zip(labels.cpu(), logits.argmax(-1).cpu(), strict=True):
                counts = of_row != IGNORED
                metrics.update(of_row[counts].tolist(), predicted[counts].tolist())
        return cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum")

    def metrics(self) -> Metrics:
        """Return figures at zero."""
        if not self.known:
            raise PluginError("'token_classification' was asked for metrics before it knows its labels")
        return Found(self.known)


def _parts(tokens: list[list[int]], labels: list[int], room: int) -> Iterator[tuple[list[int], list[int]]]:
    """Yield ids and labels of parts that have room, cut between words; of a word that alone has none, the beginning."""
    ids: list[int] = []
    of_ids: list[int] = []
    for word, label in zip(tokens, labels, strict=True):
        own = word[:room]
        if len(ids) + len(own) > room:
            yield ids, of_ids
            ids, of_ids = [], []
        ids = ids + own
        of_ids = of_ids + [label, *[IGNORED] * (len(own) - 1)][: len(own)]
    if ids:
        yield ids, of_ids


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _are_labels(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(label, int | str) for label in value)


def _column(row: Row, usual: tuple[str, ...], fits: Any, option: str, taken: str | None) -> str:
    for name in usual:
        if name in row.values and name != taken:
            return name
    found = [name for name, value in row.values.items() if name != taken and value and fits(value)]
    if len(found) == 1:
        return found[0]
    what = "several columns hold" if found else "no column holds"
    raise DataError(
        f"{row.place}: {what} a list of {option}; name it with --token-classification.{option}; there are "
        f"{columns(row)}"
    )


def _all_labels(found: dict[str | int, Row], names: list[str]) -> list[str]:
    numbers = sorted(label for label in found if isinstance(label, int))
    texts = sorted(label for label in found if isinstance(label, str))
    if numbers and texts:
        raise DataError(
            f"labels are numbers and names: {numbers[0]} in {found[numbers[0]].place}, '{texts[0]}' in "
            f"{found[texts[0]].place}; write all of them as names"
        )
    if names and texts and (more := sorted(set(texts) - set(names))):
        raise DataError(f"the label '{more[0]}' in {found[more[0]].place} is none of 'token_classification.names'")
    if numbers and numbers[0] < 0:
        raise DataError(f"the label {numbers[0]} in {found[numbers[0]].place} is below zero; number labels from 0 on")
    if names and numbers and numbers[-1] >= len(names):
        raise DataError(
            f"the label {numbers[-1]} in {found[numbers[-1]].place} has no name among the {len(names)} of "
            "'token_classification.names'"
        )
    known = names or texts or [str(number) for number in range(numbers[-1] + 1 if numbers else 0)]
    if len(known) < 2:
        raise DataError(f"there is {'one label only' if known else 'no label'}; there is nothing to tell apart")
    return known


def build(tokenizer: PreTrainedTokenizerBase, seq_length: int, options: dict[str, Any]) -> TokenClassificationTask:
    """Return the task for a tokenizer, with no labels yet.

    Raises:
        ModelError: the tokenizer has no token to pad with, or does not take words.
        ConfigError: no token fits beside those that the tokenizer adds.
    """
    if tokenizer.pad_token_id is None:
        raise ModelError("the tokenizer has no pad token, which 'token_classification' needs; give one that has")
    if not tokenizer.is_fast:
        raise ModelError("the tokenizer does not say where words are, which 'token_classification' needs")
    try:
        tokenizer(["a", "word"], is_split_into_words=True, add_special_tokens=False)
    except (AssertionError, TypeError, ValueError) as error:
        raise ModelError(f"the tokenizer does not take words, which 'token_classification' has: {error}") from error
    before, behind = frame(tokenizer)
    least = len(before) + len(behind) + 1
    if seq_length < least:
        raise ConfigError(f"'seq_length' {seq_length} has no room for a word; give {least} or more")
    return TokenClassificationTask(tokenizer, seq_length, (before, behind), **options)
