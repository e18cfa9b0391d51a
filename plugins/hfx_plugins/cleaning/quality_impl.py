"""Judge the texts of a row by families of rules, one after the other: the first broken rule drops the row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from hfx import DataError, Drop, Row, nearest
from hfx_plugins.cleaning.c4_impl import c4
from hfx_plugins.cleaning.document_impl import Document, Regex, Splitter
from hfx_plugins.cleaning.fineweb_impl import fineweb
from hfx_plugins.cleaning.gopher_impl import gopher
from hfx_plugins.cleaning.repetition_impl import repetition

if TYPE_CHECKING:
    from hfx_plugins.cleaning.quality import Quality

FAMILIES: dict[str, Callable[[Document, Quality], str | None]] = {
    "gopher": gopher,
    "repetition": repetition,
    "c4": c4,
    "fineweb": fineweb,
}
_USUAL = ("text", "content")


def judge(row: Row, limits: Quality) -> Row | Drop:
    """Return the row, its texts changed where a rule removes lines, or the drop.

    Raises:
        DataError: the row has no such column, or nothing says which column holds the text.
    """
    texts = row.texts(_columns(row, limits.columns))
    if not texts:
        return Drop("no_text")
    splitter = _splitter(limits.splitter, limits.name)
    documents = [Document(text.value, splitter) for text in texts]
    for document in documents:
        for rule in limits.rules:
            if reason := FAMILIES[rule](document, limits):
                return Drop(reason)
    # Only now: a dropped row is shown as it was read.
    for text, document in zip(texts, documents, strict=True):
        if document.reasons:
            text.value = document.text
            row.reasons += [f"{limits.name}.{reason}" for reason in document.reasons]
    return row


@cache
def _splitter(kind: str, step: str) -> Splitter:
    if kind == "regex":
        return Regex()
    from hfx_plugins.cleaning.spacy_impl import Spacy

    return Spacy(step)


def _columns(row: Row, columns: Sequence[str] | None) -> Sequence[str]:
    """Return the columns to judge: those named, `text`, `content`, or the only one with a string."""
    known = ", ".join(f"'{name}'" for name in row.values) or "none"
    if columns is not None:
        for name in columns:
            if name not in row.values:
                hint = nearest(name, row.values)
                raise DataError(f"{row.place} has no column '{name}' (--quality.columns);{hint} it has {known}")
        return columns
    usual = [name for name in _USUAL if name in row.values][:1]
    strings = usual or [name for name, value in row.values.items() if isinstance(value, str)]
    if len(strings) == 1:
        return strings
    what = "several columns hold a string" if strings else "no column holds a string"
    raise DataError(f"{row.place}: {what}; name the text's with --quality.columns; there are {known}")
