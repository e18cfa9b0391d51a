"""Which column of a row holds its text."""

from __future__ import annotations

from hfx import Row
from hfx.errors import DataError, nearest

USUAL = ("text", "content")


def text_column(row: Row, option: str, taken: str | None) -> str:
    """Return the column of the text: `text`, `content`, or the only one with a string; never the one taken.

    Raises:
        DataError: there is none, or more than one; `option` is what names it (`causal_lm.text`).
    """
    for name in USUAL:
        if name in row.values and name != taken:
            return name
    strings = [name for name, value in row.values.items() if isinstance(value, str) and name != taken]
    if len(strings) == 1:
        return strings[0]
    what = "several columns hold a string" if strings else "no column holds a string"
    raise DataError(f"{row.place}: {what}; name the text's with --{option}; there are {columns(row)}")


def string(row: Row, column: str, option: str) -> str:
    """Return the text in a column; an empty one for null.

    Raises:
        DataError: there is no such column, or it holds something else.
    """
    require(row, column, option)
    value = row.values[column]
    if value is not None and not isinstance(value, str):
        kind = type(value).__name__
        raise DataError(f"{row.place}: the column '{column}' holds {kind}, not text; name another with --{option}")
    return value or ""


def require(row: Row, column: str, option: str) -> None:
    """Refuse a row that lacks a column."""
    if column not in row.values:
        hint = nearest(column, row.values)
        raise DataError(f"{row.place} has no column '{column}' (--{option});{hint} it has {columns(row)}")


def columns(row: Row) -> str:
    """Return the row's columns as one phrase."""
    return ", ".join(f"'{name}'" for name in row.values) or "none"
