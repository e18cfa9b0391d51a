"""Telling which of several labels a text has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hfx import Plugin, hookimpl

if TYPE_CHECKING:
    from hfx import Run, Task


class Classification(Plugin):
    """Predict the label of a text: reports accuracy and macro-F1, and names the labels in the model."""

    text: str | None = None
    """The column to read; none: `text`, `content`, or the only other column that holds a string."""
    label: str = "label"
    """The column that holds the label: whole numbers or names."""
    overflow: Literal["truncate", "drop"] = "truncate"
    """A row longer than `seq_length`: cut off, or left out."""
    side: Literal["left", "right"] = "right"
    """The side that `truncate` cuts off: `right` keeps the beginning."""

    @hookimpl
    def hfx_task(self, run: Run) -> Task:
        from hfx_plugins.tasks.classification_impl import build

        return build(run.tokenizer, run.config.seq_length, self.model_dump())
