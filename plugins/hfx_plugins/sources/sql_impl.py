"""The source that reads queries of a database, a few rows at a time, in an order that has to be the same each time."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import itertools
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hfx import BadRow, Place, Row
from hfx.errors import DataError
from hfx_plugins.sources.sql_database_impl import Database
from hfx_plugins.sources.sql_fetch_impl import Fetch, Query, short

VERSION = 1
"""Raised when a row is read as something else than before."""


@dataclass
class SqlSource:
    """The rows of queries, one query after the other."""

    database: Database
    queries: tuple[Query, ...]
    version_query: str | None
    fetch: int
    patience: float
    """Seconds for which what fails is tried again."""
    indexed: bool = True
    _digest: str | None = field(default=None, repr=False)

    def fingerprint(self) -> str:
        """Return a hash of all rows, or of the version query's result; not of where the database lies."""
        how = [VERSION, [[query.source, query.statement] for query in self.queries]]
        if self.version_query:
            rows = list(self._fetch(Query("", self.version_query)).rows())
            return hashlib.sha256(json.dumps([how, self.version_query, rows], default=str).encode()).hexdigest()
        if self._digest is None:
            self._digest = self._hashed(self._rows())
        return hashlib.sha256(json.dumps([how, self._digest]).encode()).hexdigest()

    def read(self, start: int = 0) -> Iterator[Row | BadRow]:
        """Yield the rows, from the one with this number on.

        Raises:
            DataError: they are not those that were hashed.
        """
        digest = hashlib.sha256()
        yield from itertools.islice(self._checked(digest), start, None)
        if self._digest is not None and digest.hexdigest() != self._digest:
            raise DataError(
                f"the rows of '{self.database.label}' are others, or in another order, than a moment ago; order them "
                "by columns without ties (sql.order_by), and read from a database that does not change meanwhile"
            )

    def formats(self) -> dict[str, int]:
        """Return how many queries there are."""
        return {"sql": len(self.queries)}

    def summary(self) -> str:
        """Return one line: the database and what is read of it."""
        more = f" and {len(self.queries) - 1} more" if len(self.queries) > 1 else ""
        return f"{self.database.module} '{self.database.label}': {short(self.queries[0].statement)}{more}"

    def _hashed(self, rows: Iterator[Row | BadRow]) -> str:
        digest = hashlib.sha256()
        for row in rows:
            digest.update(_line(row))
        return digest.hexdigest()

    def _checked(self, digest: Any) -> Iterator[Row | BadRow]:
        for row in self._rows():
            digest.update(_line(row))
            yield row

    def _rows(self) -> Iterator[Row | BadRow]:
        for query in self.queries:
            fetch = self._fetch(query)
            for number, values in enumerate(fetch.rows(), start=1):
                place = Place(query.source, self.database.label, number)
                yield _row(place, dict(zip(fetch.names, values, strict=True)))

    def _fetch(self, query: Query) -> Fetch:
        return Fetch(self.database, query, self.fetch, self.patience)


def _line(row: Row | BadRow) -> bytes:
    body = row.values if isinstance(row, Row) else row.reason
    return json.dumps([row.place.source, body], default=str).encode() + b"\n"


def _row(place: Place, values: dict[str, Any]) -> Row | BadRow:
    for name, value in values.items():
        if value is None or type(value) in (str, int, float, bool):
            continue
        found = _as_json(value)
        if found is None:
            what = "text that is no UTF-8, or bytes" if isinstance(value, bytes) else f"a {type(value).__name__}"
            return BadRow(place, f"the column '{name}' holds {what}; leave it out of the query, or CAST it")
        values[name] = found
    return Row(values, place)


def _as_json(value: Any) -> Any:
    """Return a value of a database as JSON has it, or None where it has no such thing."""
    if isinstance(value, datetime.date | datetime.time | uuid.UUID):
        return str(value) if isinstance(value, uuid.UUID) else value.isoformat()
    if isinstance(value, decimal.Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if isinstance(value, list | dict):
        try:
            return json.loads(json.dumps(value))
        except (TypeError, ValueError):
            return None
    return None
