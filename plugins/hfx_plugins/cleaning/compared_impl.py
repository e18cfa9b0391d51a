"""The strings that deduplication compares, row by row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from hfx import DataError, Row, nearest


def texts_of(rows: Iterable[Row], columns: Sequence[str] | None, step: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each row's number and strings; rows may differ in their columns, but each column is in some row.

    Raises:
        DataError: no row has one of the columns.
    """
    missing = set(columns or ())
    seen: dict[str, None] = {}
    for row in rows:
        names = None if columns is None else [name for name in columns if name in row.values]
        if missing:
            missing.difference_update(row.values)
            seen.update(dict.fromkeys(row.values))
        yield row.number, [text.value for text in row.texts(names)]
    if missing and seen:
        name = min(missing)
        raise DataError(
            f"'{step}' is to compare the column '{name}', which no row has;{nearest(name, seen)} "
            f"the rows have {', '.join(seen)}"
        )
