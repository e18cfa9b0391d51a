"""What `hfx eval` found, as lines: figures, a table of labels, and which label was taken for which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hfx.cli.columns import columns
from hfx.data_lines import reasons

if TYPE_CHECKING:
    from hfx.evaluator import Evaluation

MOST = 12
"""Labels of which the confusion is shown."""
_COUNTS = ("rows", "entities")
"""Figures of a label that count."""


def lines(found: Evaluation) -> list[str]:
    """Return the lines of an evaluation."""
    speed = found.tokens / found.seconds if found.seconds else 0.0
    told = [f"rows       {found.rows:,} examples of {found.tokens:,} tokens in {found.seconds:,.1f} s ({speed:,.0f}/s)"]
    if found.left_out:
        told.append(f"left out   {sum(found.left_out.values()):,} rows ({reasons(found.left_out)})")
    told += columns([[name, f"{value:.6g}"] for name, value in found.figures.items()]).splitlines()
    return told + _label_lines(found.details) + _confusion_lines(found.details)


def _label_lines(details: dict[str, Any]) -> list[str]:
    """Return a line for each label: how many it has, and its figures."""
    by_label: dict[str, dict[str, float]] = details.get("by_label", {})
    if not by_label:
        return []
    names = list(next(iter(by_label.values())))
    rows = [[label, *(_number(name, values[name]) for name in names)] for label, values in by_label.items()]
    return ["", *columns(rows, ["label", *names]).splitlines()]


def _confusion_lines(details: dict[str, Any]) -> list[str]:
    """Return how often each label was taken for each: a line for each true label."""
    labels, confusion = details.get("labels", []), details.get("confusion", [])
    if not confusion:
        return []
    if len(labels) > MOST:
        return ["", f"which of {len(labels)} labels was taken for which is in '--json'"]
    rows = [[label, *(f"{count:,}" for count in counts)] for label, counts in zip(labels, confusion, strict=True)]
    return ["", *columns([["TRUE \\ TAKEN FOR", *labels], *rows]).splitlines()]


def _number(name: str, value: float) -> str:
    return f"{value:,.0f}" if name in _COUNTS else f"{value:.4f}"
