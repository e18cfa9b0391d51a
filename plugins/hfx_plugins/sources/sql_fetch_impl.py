"""The rows of one query, whatever happens to the connection: a new one goes on behind the last row."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from hfx.errors import ConfigError, DataError, RemoteError
from hfx_plugins.sources.retry_impl import Patience, Trouble
from hfx_plugins.sources.sql_database_impl import Database

Values: TypeAlias = "tuple[Any, ...]"
_QUIET = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)
_ORDER = re.compile(r"\border\s+by\b", re.IGNORECASE)
_ONE_COLUMN = re.compile(r"\s*([\w.]+)(?:\s+(asc|desc))?\s*", re.IGNORECASE)
_PLACES = {"qmark": "?", "numeric": ":1", "named": ":hfx_last", "format": "%s", "pyformat": "%s"}


@dataclass(frozen=True)
class _Follow:
    """A statement for the rows from one on: its parameters, and where in a row the column is that leads there."""

    statement: str
    parameters: Any
    at: int


@dataclass(frozen=True)
class Query:
    """One thing to read: the source's name, the statement with its ORDER BY, and what it is made of."""

    source: str
    statement: str
    inner: str = ""
    """What is read, where the order was put around it."""
    order_by: str = ""

    def following(self, names: list[str], last: Values, paramstyle: str) -> _Follow | None:
        """Return the statement for the rows from one on; None where no column leads there."""
        match = _ONE_COLUMN.fullmatch(self.order_by)
        known = [name.lower() for name in names]
        if match is None or paramstyle not in _PLACES or match[1].rpartition(".")[2].lower() not in known:
            return None
        at = known.index(match[1].rpartition(".")[2].lower())
        value = last[at]
        if value is None or isinstance(value, bytes):
            return None
        inner = self.inner.replace("%", "%%") if paramstyle in ("format", "pyformat") else self.inner
        sign = "<=" if (match[2] or "").lower() == "desc" else ">="
        # NULLs come first or last, as the database likes: none of those behind may be lost.
        where = f"{match[1]} {sign} {_PLACES[paramstyle]} OR {match[1]} IS NULL"
        parameters = {"hfx_last": value} if paramstyle == "named" else (value,)
        return _Follow(f"SELECT * FROM {inner} WHERE {where} ORDER BY {self.order_by}", parameters, at)


def queries(named: Mapping[str, str], order_by: str | None) -> tuple[Query, ...]:
    """Return the statements for tables and queries by source name.

    Raises:
        ConfigError: the order of the rows is left to the database.
    """
    return tuple(_ordered(name, named[name].strip().rstrip(";"), order_by) for name in sorted(named))


def _ordered(source: str, text: str, order_by: str | None) -> Query:
    is_table = re.fullmatch(r"[\w.]+", text) is not None
    if not is_table and has_order(text):
        return Query(source, text)
    if not order_by:
        raise ConfigError(
            f"the rows of '{short(text)}' come in any order, so reading twice may differ; name a column without "
            "ties with '--sql.order_by id', or end the query in an ORDER BY"
        )
    inner = text if is_table else f"({text}) AS hfx_rows"
    return Query(source, f"SELECT * FROM {inner} ORDER BY {order_by}", inner, order_by)


def has_order(query: str) -> bool:
    """Tell whether the outermost query has an ORDER BY; one in a window or a subquery orders nothing."""
    bare, inner = _QUIET.sub(" ", query), None
    while bare != inner:
        inner, bare = bare, re.sub(r"\([^()]*\)", " ", bare)
    return _ORDER.search(bare) is not None


def short(text: str) -> str:
    """Return a statement as it fits into a line."""
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "..."


@dataclass
class _Seen:
    """The rows so far: how many, a hash of them, and the last one."""

    count: int = 0
    last: Values = ()
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, values: Values) -> None:
        self.count, self.last = self.count + 1, values
        self.digest.update(repr(values).encode("utf-8", "backslashreplace"))


@dataclass
class Fetch:
    """Reads the rows of one query, `size` at a time; what fails is tried again for so many seconds."""

    database: Database
    query: Query
    size: int
    seconds: float
    names: list[str] = field(default_factory=list)
    """The columns, known with the first row."""

    def rows(self) -> Iterator[Values]:
        """Yield every row once, in order.

        Raises:
            DataError: the rows before the one where it broke are others now.
            RemoteError: it goes on failing, or is refused.
        """
        advice = "try again when it is back, or raise sql.retry_minutes"
        patience = Patience(f"the database '{self.database.label}'", self.seconds, advice)
        seen = _Seen()
        while True:
            try:
                for values in self._left(seen):
                    seen.add(values)
                    patience.calm()
                    yield values
                return
            except Trouble as trouble:
                patience.wait(trouble, f" at row {seen.count + 1:,}")

    def _left(self, seen: _Seen) -> Iterator[Values]:
        if seen.count and (follow := self._following(seen)):
            with self.database.cursor() as cursor:
                if (begin := self._behind(cursor, follow, seen.last)) is not None:
                    yield from begin
                    yield from self._fetched(cursor)
                    return
        with self.database.cursor() as cursor:
            self._execute(cursor, self.query.statement)
            rows = self._fetched(cursor)
            self._pass(rows, seen)
            yield from rows

    def _following(self, seen: _Seen) -> _Follow | None:
        paramstyle = getattr(self.database.imported(), "paramstyle", "")
        return self.query.following(self.names, seen.last, paramstyle)

    def _behind(self, cursor: Any, follow: _Follow, last: Values) -> list[Values] | None:
        """Ask for the rows from the last one on, and return what comes behind it first; None where that is in doubt."""
        try:
            self._execute(cursor, follow.statement, follow.parameters)
            with self._failing():
                found = [tuple(row) for row in cursor.fetchmany(2)]
        except (DataError, RemoteError):  # a module that wants its parameters otherwise
            return None
        tied = any(row[follow.at] == last[follow.at] for row in found[1:])
        return None if tied or found[:1] != [last] else found[1:]

    def _pass(self, rows: Iterator[Values], seen: _Seen) -> None:
        """Read over the rows that came before, and make sure that they are the same."""
        again = _Seen()
        while again.count < seen.count and (values := next(rows, None)) is not None:
            again.add(values)
        if again.digest.digest() != seen.digest.digest():
            raise DataError(
                f"the connection to '{self.database.label}' was lost at row {seen.count + 1:,}, and the rows before it "
                "are others now; order them by columns without ties (sql.order_by), and begin again"
            )

    def _execute(self, cursor: Any, statement: str, *parameters: Any) -> None:
        with self._failing():
            cursor.execute(statement, *parameters)
        self.names = _names(cursor, self.query.statement)

    def _fetched(self, cursor: Any) -> Iterator[Values]:
        while True:
            with self._failing():
                batch = cursor.fetchmany(self.size)
            if not batch:
                return
            yield from (tuple(values) for values in batch)

    def _failing(self) -> Any:
        return self.database.failing(f"the database '{self.database.label}' refuses '{short(self.query.statement)}'")


def _names(cursor: Any, statement: str) -> list[str]:
    if cursor.description is None:
        raise ConfigError(f"'{short(statement)}' returns no rows; 'sql' reads tables and SELECT queries")
    names = [str(column[0]) for column in cursor.description]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"'{short(statement)}' has two columns '{twice[0]}'; name one of them otherwise with AS")
    return names
