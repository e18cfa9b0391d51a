"""Telling which of several labels a text has, or several texts, or a number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveFloat

from hfx import Plugin, Problem, hookimpl

if TYPE_CHECKING:
    from hfx import PlainScript, Run, Task


class Classification(Plugin):
    """Predict the label of a text, or of several: one label a row, several, or a number.

    A row's label is a name or a whole number; a list of them where a row has several; a fraction where a number is to
    be predicted. Reports accuracy and macro-F1; micro- and macro-F1 and exact matches; or errors, R² and correlation.
    """

    text: str | list[str] | None = None
    """The column to read, or several, as `[premise, hypothesis]`; none: a usual pair of columns (`sentence1` and
    `sentence2`, `premise` and `hypothesis`, ...), `text`, `content`, or the only other column that holds a string."""
    label: str = "label"
    """The column that holds the label: whole numbers or names, lists of them, or fractions."""
    problem: Literal["single_label", "multi_label", "regression"] | None = None
    """What the labels are; none: what the rows hold."""
    names: list[str] = Field(default_factory=list)
    """Names of labels that are numbers, from 0 on, or the order of labels that are names."""
    class_weights: Literal["balanced"] | dict[str, PositiveFloat] | None = None
    """Weight of each label's loss, by name; `balanced`: the rarer, the more, so that all labels count alike. Of
    several labels a row it is the weight of the rows that have the label."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of a label that is spread over all labels."""
    overflow: Literal["truncate", "drop"] = "truncate"
    """A row longer than `seq_length`: cut off, of several texts the longest first; or left out."""
    side: Literal["left", "right"] = "right"
    """The side that `truncate` cuts off: `right` keeps the beginning."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Refuse what a named problem has no use for."""
        given = {"names": self.names, "class_weights": self.class_weights, "label_smoothing": self.label_smoothing}
        unfit = {"regression": list(given), "multi_label": ["label_smoothing"]}.get(self.problem or "", [])
        for name in unfit:
            if given[name]:
                yield Problem(
                    f"'classification.{name}' is for labels, and '--classification.problem {self.problem}' has no use "
                    f"for it; drop '--classification.{name.replace('_', '-')}'"
                )

    @hookimpl
    def hfx_task(self, run: Run) -> Task:
        from hfx_plugins.tasks.classification_impl import build

        return build(run.tokenizer, run.config.seq_length, self.model_dump())

    @hookimpl
    def hfx_eject(self, script: PlainScript, run: Run) -> None:
        """Say the loss in plain code."""
        from hfx_plugins.tasks.classification_impl import eject

        eject(script, run)
