"""The strings of a row that a cleaning step reads, and what a missing package or column is answered with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec

from hfx import DataError, Problem, Row, nearest
from hfx.protocols import Text


def strings_of(row: Row, columns: Sequence[str] | None, step: str) -> list[Text]:
    """Return the strings in the columns, or in all; rows may differ, so one of the columns is enough.

    Raises:
        DataError: the row has none of the columns.
    """
    if columns is None:
        return row.texts()
    names = [name for name in columns if name in row.values]
    if columns and not names:
        hint = nearest(columns[0], row.values)
        found = ", ".join(f"'{name}'" for name in row.values) or "none"
        raise DataError(f"{row.place} has no column '{columns[0]}' (--{step}.columns);{hint} it has {found}")
    return row.texts(names)


def missing(step: str, *packages: str) -> Iterator[Problem]:
    """Report the packages of the extra `clean` that are not installed."""
    for package in packages:
        if find_spec(package) is None:
            yield Problem(f"'{step}' needs the package {package}; pip install 'hfx[clean]'")
