"""Reading a table of an SQLite database."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfx import BadRow, Place, Row
from hfx.errors import ConfigError, DataError, nearest


@dataclass(frozen=True)
class Documents:
    """The rows of a table; it holds names only, so that processes can be given it."""

    database: Path
    table: str
    text: str
    key: str
    indexed: bool = True

    @classmethod
    def opened(cls, database: Path, table: str, text: str, key: str) -> Documents:
        """Return the rows of a table whose names are right.

        Raises:
            DataError: there is no such database, or it cannot be read.
            ConfigError: it has no such table, or the table no such column.
        """
        if not database.is_file():
            raise DataError(f"there is no database '{database}'; look at 'acme_docs.database'")
        found = cls(database, table, text, key)
        with found._connected() as connection:
            tables = [
                name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
            ]
            columns = [name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))]
        if table not in tables:
            raise ConfigError(
                f"'{database}' has no table '{table}' (acme_docs.table);{nearest(table, tables) or _all(tables)}"
            )
        for option, column in (("text", text), ("key", key)):
            if column not in columns:
                hint = nearest(column, columns) or _all(columns)
                raise ConfigError(f"the table '{table}' has no column '{column}' (acme_docs.{option});{hint}")
        return found

    def fingerprint(self) -> str:
        """Return a hash of the rows' content: a database that changed is prepared anew."""
        digest = hashlib.sha256(json.dumps([1, self.table, self.text, self.key]).encode())
        with self._connected() as connection:
            for key, text in self._select(connection, 0):
                digest.update(json.dumps([key, text], default=bytes.hex).encode())
        return digest.hexdigest()

    def read(self, start: int = 0) -> Iterator[Row | BadRow]:
        """Yield the rows from the one with this number on."""
        with self._connected() as connection:
            for key, text in self._select(connection, start):
                place = Place("acme_docs", f"{self.database}#{self.table}", key)
                if isinstance(text, str):
                    yield Row({"text": text}, place)
                else:
                    yield BadRow(place, f"'{self.text}' is {'empty (NULL)' if text is None else 'no text'}")

    def summary(self) -> str:
        """Return one line: how many rows, of which table."""
        with self._connected() as connection:
            ((count,),) = connection.execute(f"SELECT count(*) FROM {_quoted(self.table)}")
        return f"{count:,} rows of the table '{self.table}' of {self.database.name}"

    def _select(self, connection: sqlite3.Connection, start: int) -> Iterator[tuple[int, Any]]:
        key, text, table = map(_quoted, (self.key, self.text, self.table))
        yield from connection.execute(f"SELECT {key}, {text} FROM {table} ORDER BY {key} LIMIT -1 OFFSET ?", (start,))

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(f"{self.database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
                yield connection
        except sqlite3.Error as error:
            raise DataError(
                f"the database '{self.database}' cannot be read: {error}; mend it or choose another"
            ) from error


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _all(names: list[str]) -> str:
    return f" it has {', '.join(names)}" if names else " it has none"
