"""What the labels of rows are: one of several, several of many, or a number; and the loss of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from hfx import ColumnType, Drop, Row
from hfx.errors import ConfigError, DataError
from hfx_plugins.tasks.label_figures_impl import Confusion, Deviations, Sets
from hfx_plugins.tasks.text_impl import require

if TYPE_CHECKING:
    from torch import Tensor

    from hfx import Metrics
    from hfx.protocols import Values

MOST_LABELS = 1000
IGNORED = -100

Label: TypeAlias = "int | str"


class Problem(Protocol):
    """One kind of labels: how a row's is read, what the model is told, its loss and its figures."""

    @property
    def name(self) -> str:
        """In words: `single label`, `multi label`, `regression`."""

    @property
    def column(self) -> ColumnType:
        """The table's column of what `target` returns, padded as in a batch."""

    def target(self, value: Any) -> Any:
        """Return what the table keeps of a row's label, or a `Drop`."""

    @property
    def model_options(self) -> Mapping[str, Any]:
        """What the model's config needs to know."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of the loss over the rows, `()`; logits `(batch, labels)`."""

    def metrics(self) -> Metrics:
        """Return figures at zero."""


@dataclass(frozen=True)
class SingleLabel:
    """One of several labels: cross entropy, weighted by the label where weights are given."""

    labels: tuple[Label, ...]
    names: tuple[str, ...]
    weights: tuple[float, ...] | None
    smoothing: float
    name: str = "single label"
    column: ColumnType = field(default_factory=lambda: ColumnType("int32", IGNORED))

    def target(self, value: Any) -> int | Drop:
        """Return the label's position among all."""
        return self.labels.index(value) if value in self.labels else Drop("unknown_label")

    @property
    def model_options(self) -> Mapping[str, Any]:
        """Names and number of the labels."""
        return named(self.names) | {"problem_type": "single_label_classification"}

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of the cross entropy."""
        from torch.nn.functional import cross_entropy

        weight = None if self.weights is None else logits.new_tensor(self.weights)
        return cross_entropy(logits, labels, weight, reduction="sum", label_smoothing=self.smoothing)

    def metrics(self) -> Metrics:
        """Return the confusion of labels, at zero."""
        return Confusion(self.names)


@dataclass(frozen=True)
class MultiLabel:
    """Any number of labels a row: the binary cross entropy of each, its mean over the labels."""

    labels: tuple[Label, ...]
    names: tuple[str, ...]
    weights: tuple[float, ...] | None
    name: str = "multi label"
    column: ColumnType = field(default_factory=lambda: ColumnType("list<int32>", IGNORED))

    def target(self, value: list[Label]) -> list[int] | Drop:
        """Return the labels' positions among all, sorted."""
        if any(label not in self.labels for label in value):
            return Drop("unknown_label")
        return sorted(self.labels.index(label) for label in value)

    @property
    def model_options(self) -> Mapping[str, Any]:
        """Names and number of the labels."""
        return named(self.names) | {"problem_type": "multi_label_classification"}

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the sum over the rows; a label's weight is that of the rows that have it."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        weight = None if self.weights is None else logits.new_tensor(self.weights)
        hot = hot_of(labels, logits.shape[-1]).to(logits.dtype)
        each = binary_cross_entropy_with_logits(logits, hot, pos_weight=weight, reduction="none")
        return each.mean(-1).sum()

    def metrics(self) -> Metrics:
        """Return the counts of each label, at zero."""
        return Sets(self.names)


@dataclass(frozen=True)
class Regression:
    """A number: the squared error."""

    label: str
    name: str = "regression"
    column: ColumnType = field(default_factory=lambda: ColumnType("float32"))

    def target(self, value: float) -> float:
        """Return the number."""
        return float(value)

    @property
    def model_options(self) -> Mapping[str, Any]:
        """One output, named by its column."""
        return named([self.label]) | {"problem_type": "regression"}

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of the squared errors."""
        from torch.nn.functional import mse_loss

        return mse_loss(logits[:, 0], labels.to(logits.dtype), reduction="sum")

    def metrics(self) -> Metrics:
        """Return the deviations, at zero."""
        return Deviations()


def hot_of(labels: Tensor, size: int) -> Tensor:
    """Return 1 where a row has a label, `(batch, size)`, from positions padded with less than zero."""
    hot = labels.new_zeros(len(labels), size + 1)
    return hot.scatter_(1, labels.where(labels >= 0, size), 1)[:, :size]


def named(names: Iterable[str]) -> dict[str, Any]:
    """Return what a config of transformers keeps of labels."""
    listed = list(names)
    return {
        "num_labels": len(listed),
        "id2label": dict(enumerate(listed)),
        "label2id": {name: index for index, name in enumerate(listed)},
    }


def found(rows: Iterable[Row], label: str, wanted: str | None, names: list[str]) -> Values:
    """Return which problem the labels of some rows are, the labels sorted, and how often each occurs.

    Where the labels' names are given, the rows need not have all of them.

    Raises:
        DataError: there are too many to be classes, fewer than two, or kinds that do not go together.
    """
    first: dict[Label, Row] = {}
    counts: Counter[Label] = Counter()
    kinds: dict[str, Row] = {}
    total = 0
    for row in rows:
        value = read(row, label)
        if value is None:
            continue
        total += 1
        kinds.setdefault(_kind(value), row)
        numbers = wanted == "regression" or "regression" in kinds
        # Of numbers nothing has to be known but that there is no name among them.
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str) or not numbers:
                first.setdefault(one, row)
                counts[one] += 1
        if len(first) > MOST_LABELS:
            raise DataError(
                f"the column '{label}' holds more than {MOST_LABELS} different labels; name the label's column "
                "with --classification.label, or say '--classification.problem regression'"
            )
    problem = _problem(kinds, label, wanted)
    if problem == "regression":
        _check_numbers(first, label)
        return {"problem": problem, "labels": [], "counts": [], "rows": total}
    labels = _sorted(first, label, 0 if names else 2)
    return {"problem": problem, "labels": labels, "counts": [counts[one] for one in labels], "rows": total}


def _kind(value: Any) -> str:
    return "multi_label" if isinstance(value, list) else "regression" if isinstance(value, float) else "single_label"


def _problem(kinds: dict[str, Row], label: str, wanted: str | None) -> str:
    """Return what the labels are, or what is wanted of them."""
    if "multi_label" in kinds and (others := [kind for kind in kinds if kind != "multi_label"]):
        raise DataError(
            f"the column '{label}' holds lists and single labels: a list in {kinds['multi_label'].place}, none in "
            f"{kinds[others[0]].place}; write lists in every row"
        )
    has = next((kind for kind in ("multi_label", "regression") if kind in kinds), "single_label")
    if wanted is None or wanted == has or (wanted, has) == ("regression", "single_label"):
        return wanted or has
    what = {"multi_label": "lists of labels", "regression": "fractions", "single_label": "single labels"}[has]
    raise DataError(
        f"the column '{label}' holds {what}, as in {next(iter(kinds.values())).place}; "
        f"drop '--classification.problem {wanted}', or name another column with --classification.label"
    )


def _check_numbers(first: dict[Label, Row], label: str) -> None:
    name = next((one for one in first if isinstance(one, str)), None)
    if name is not None:
        raise DataError(f"the column '{label}' holds numbers, and the name '{name}' in {first[name].place}")


def read(row: Row, column: str) -> Any:
    """Return a row's label, None where it has none: a name, a whole number, a fraction, or a list of labels.

    Raises:
        DataError: there is no such column, or it holds something else.
    """
    require(row, column, "classification.label")
    value = row.values[column]
    if value is None or value == "":
        return None
    if not isinstance(value, list):
        return _scalar(value, row, column)
    labels = [_scalar(one, row, column) for one in value]
    if any(isinstance(label, float) for label in labels):
        raise DataError(f"{row.place}: the list in '{column}' holds fractions; it has to name the labels of the row")
    if len(set(labels)) < len(labels):
        raise DataError(
            f"{row.place}: the list in '{column}' holds a label twice; it has to name the labels of the row, "
            "as [2, 5], not say of each label whether it has it"
        )
    return labels


def _scalar(value: Any, row: Row, column: str) -> Label | float:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return int(value) if value.is_integer() else value
    kind = "no finite number" if isinstance(value, float) else type(value).__name__
    raise DataError(f"{row.place}: the label in '{column}' is {kind}; it has to be a name, a number or a list of them")


def _sorted(first: dict[Label, Row], column: str, least: int) -> list[Label]:
    numbers = sorted(label for label in first if isinstance(label, int))
    texts = sorted(label for label in first if isinstance(label, str))
    if numbers and texts:
        raise DataError(
            f"the column '{column}' holds numbers and names: {numbers[0]} in {first[numbers[0]].place},"
            f" '{texts[0]}' in {first[texts[0]].place}; write all of them as names"
        )
    if len(first) < least:
        what = f"one label only: '{next(iter(first))}'" if first else "no label"
        raise DataError(f"the column '{column}' holds {what}; there is nothing to tell apart")
    return [*numbers, *texts]


def problem_of(facts: Values, options: Mapping[str, Any]) -> Problem:
    """Return the problem for the facts of `found` and the options of `classification`.

    Raises:
        ConfigError: an option does not go with the problem, or knows other labels.
    """
    kind, smoothing = facts["problem"], float(options["label_smoothing"])
    unfit = [name for name in ("names", "class_weights", "label_smoothing") if options[name]]
    if kind == "multi_label":
        unfit = [name for name in unfit if name == "label_smoothing"]
    if kind != "single_label" and unfit:
        has = "several labels a row" if kind == "multi_label" else "numbers"
        raise ConfigError(
            f"'classification.{unfit[0]}' does not go with {has}, as the column '{options['label']}' holds; drop it"
        )
    if kind == "regression":
        return Regression(options["label"])
    labels, names = _with_names(facts["labels"], options["names"])
    counts = dict(zip(facts["labels"], facts["counts"], strict=True))
    weights = _weights([counts.get(label, 0) for label in labels], names, options["class_weights"], facts)
    if kind == "multi_label":
        return MultiLabel(labels, names, weights)
    return SingleLabel(labels, names, weights, smoothing)


def _with_names(labels: list[Label], names: list[str]) -> tuple[tuple[Label, ...], tuple[str, ...]]:
    """Return the labels and their names: those given are of the numbers from 0 on, or put the names in this order."""
    if not names:
        return tuple(labels), tuple(str(label) for label in labels)
    if all(name.removeprefix("-").isdecimal() for name in names) and all(isinstance(one, int) for one in labels):
        given = {int(name): name for name in names}  # as a model says of labels that were numbers
        unknown = next((label for label in labels if label not in given), None)
        if unknown is not None:
            raise ConfigError(f"the label {unknown} is none of 'classification.names'")
        return tuple(given), tuple(given.values())
    if labels and isinstance(labels[0], str):
        missing = next((label for label in labels if label not in names), None)
        if missing is not None:
            raise ConfigError(f"the label '{missing}' is none of 'classification.names'")
        return tuple(names), tuple(names)
    if labels and (int(labels[0]) < 0 or int(labels[-1]) >= len(names)):
        unnamed = labels[0] if int(labels[0]) < 0 else labels[-1]
        raise ConfigError(f"the label {unnamed} has no name among the {len(names)} of 'classification.names'")
    return tuple(range(len(names))), tuple(names)


def _weights(counts: list[int], names: tuple[str, ...], given: Any, facts: Values) -> tuple[float, ...] | None:
    """Return the labels' weights: of `balanced` their mean over the rows is 1, or what makes up for rows without."""
    if not given:
        return None
    if given == "balanced":
        rows = facts["rows"]
        if facts["problem"] == "multi_label":
            return tuple((rows - count) / count if 0 < count < rows else 1.0 for count in counts)
        occurring = sum(count > 0 for count in counts)
        return tuple(rows / (occurring * count) if count else 1.0 for count in counts)
    unknown = next((name for name in given if name not in names), None)
    if unknown is not None:
        raise ConfigError(
            f"'classification.class_weights' names the label '{unknown}', which no row has; there are "
            + ", ".join(f"'{name}'" for name in names)
        )
    return tuple(float(given.get(name, 1.0)) for name in names)
