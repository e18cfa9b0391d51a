"""The source that reads queries of a database, a few rows at a time, in an order that has to be the same each time."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import importlib
import itertools
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfx import BadRow, Place, Row, reveal
from hfx.errors import ConfigError, DataError, RemoteError, nearest

VERSION = 1
"""Raised when a row is read as something else than before."""
_NAMED_CURSORS = ("psycopg", "psycopg2")
"""Modules that fetch everything at once, unless the cursor has a name."""
_QUIET = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)
_ORDER = re.compile(r"\border\s+by\b", re.IGNORECASE)


@dataclass(frozen=True)
class Query:
    """One thing to read: the source's name, and the statement with its ORDER BY."""

    source: str
    statement: str


def queries(named: Mapping[str, str], order_by: str | None) -> tuple[Query, ...]:
    """Return the statements for tables and queries by source name.

    Raises:
        ConfigError: the order of the rows is left to the database.
    """
    return tuple(Query(name, _ordered(named[name].strip().rstrip(";"), order_by)) for name in sorted(named))


def _ordered(text: str, order_by: str | None) -> str:
    is_table = re.fullmatch(r"[\w.]+", text) is not None
    if not is_table and _has_order(text):
        return text
    if not order_by:
        raise ConfigError(
            f"the rows of '{_short(text)}' come in any order, so reading twice may differ; name a column without "
            "ties with '--sql.order_by id', or end the query in an ORDER BY"
        )
    return f"SELECT * FROM {text if is_table else f'({text}) AS hfx_rows'} ORDER BY {order_by}"


def _has_order(query: str) -> bool:
    """Tell whether the outermost query has an ORDER BY; one in a window or a subquery orders nothing."""
    bare, inner = _QUIET.sub(" ", query), None
    while bare != inner:
        inner, bare = bare, re.sub(r"\([^()]*\)", " ", bare)
    return _ORDER.search(bare) is not None


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "..."


@dataclass(frozen=True)
class Database:
    """How to reach a database: a module, what its `connect` takes, and which of that is a secret."""

    module: str
    address: str | None
    arguments: tuple[tuple[str, Any], ...]

    @property
    def label(self) -> str:
        """Its name in messages and places; a secret stays `env:NAME`."""
        return self.address or self.module

    @contextmanager
    def cursor(self) -> Iterator[Any]:
        """Open the database, and yield a cursor that leaves the rows with the server where it can."""
        module = self._imported()
        with self.failing(module, f"cannot open the database '{self.label}'"):
            connection = self._connected(module)
        with closing(connection):
            named = self.module.partition(".")[0] in _NAMED_CURSORS
            with closing(connection.cursor("hfx_rows") if named else connection.cursor()) as cursor:
                yield cursor

    @contextmanager
    def failing(self, module: Any, what: str) -> Iterator[None]:
        """Turn what the database refuses into one line that holds no secret."""
        try:
            yield
        except module.Error as error:
            line = self._without_secrets(" ".join(str(error).split()) or type(error).__name__)
            local = self.module == "sqlite3"
            raise (DataError if local else RemoteError)(f"{what}: {line}; look at the options of 'sql'") from None

    def _imported(self) -> Any:
        try:
            module = importlib.import_module(self.module)
        except ImportError:
            raise ConfigError(
                f"the module '{self.module}' (sql.module) is not installed; install the database's Python package"
            ) from None
        if not (hasattr(module, "connect") and hasattr(module, "Error")):
            raise ConfigError(f"the module '{self.module}' (sql.module) is none of a database: it has no `connect`")
        return module

    def _secrets(self) -> dict[str, str]:
        given = [self.address, *(value for _, value in self.arguments)]
        return {value: reveal(value) for value in given if isinstance(value, str) and value.startswith("env:")}

    def _without_secrets(self, line: str) -> str:
        for name, value in self._secrets().items():
            line = line.replace(value, name) if value else line
        return line

    def _connected(self, module: Any) -> Any:
        secrets = self._secrets()
        arguments = {name: secrets.get(str(value), value) for name, value in self.arguments}
        address = secrets.get(self.address, self.address) if self.address else None
        if self.module == "sqlite3":
            return _sqlite(module, address or "", arguments)
        return module.connect(*([address] if address else []), **arguments)


def _sqlite(module: Any, address: str, arguments: dict[str, Any]) -> Any:
    """Open a file that has to be there, for reading; text that is no UTF-8 spoils its row and not the query."""
    path = Path(address.removeprefix("sqlite:///")).expanduser()
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise DataError(f"the database '{address}' does not exist;{near or ' name a file of SQLite'}")
    connection = module.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, **arguments)
    connection.text_factory = _text
    return connection


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


@dataclass
class SqlSource:
    """The rows of queries, one query after the other."""

    database: Database
    queries: tuple[Query, ...]
    version_query: str | None
    fetch: int
    indexed: bool = True
    _digest: str | None = field(default=None, repr=False)

    def fingerprint(self) -> str:
        """Return a hash of all rows, or of the version query's result; not of where the database lies."""
        how = [VERSION, [[query.source, query.statement] for query in self.queries]]
        if self.version_query:
            rows = [values for values, _ in self._fetched(self.version_query)]
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
        return f"{self.database.module} '{self.database.label}': {_short(self.queries[0].statement)}{more}"

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
            for number, (values, names) in enumerate(self._fetched(query.statement), start=1):
                place = Place(query.source, self.database.label, number)
                yield _row(place, dict(zip(names, values, strict=True)))

    def _fetched(self, statement: str) -> Iterator[tuple[tuple[Any, ...], list[str]]]:
        module = self.database._imported()
        what = f"the database '{self.database.label}' refuses '{_short(statement)}'"
        with self.database.cursor() as cursor:
            with self.database.failing(module, what):
                cursor.execute(statement)
                batch = cursor.fetchmany(self.fetch)
            names = _names(cursor, statement)
            while batch:
                yield from ((tuple(values), names) for values in batch)
                with self.database.failing(module, what):
                    batch = cursor.fetchmany(self.fetch)


def _names(cursor: Any, statement: str) -> list[str]:
    if cursor.description is None:
        raise ConfigError(f"'{_short(statement)}' returns no rows; 'sql' reads tables and SELECT queries")
    names = [str(column[0]) for column in cursor.description]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"'{_short(statement)}' has two columns '{twice[0]}'; name one of them otherwise with AS")
    return names


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
