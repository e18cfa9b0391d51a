"""Rows from a database, through any module of Python's database interface (DB-API 2.0)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field, field_validator, model_validator

from hfx import Plugin, Problem, Rows, hookimpl

if TYPE_CHECKING:
    from hfx import Run

Argument = str | int | float | bool
_SECRET = re.compile(r"pass|pwd|secret|token|key", re.IGNORECASE)
_WITH_PASSWORD = re.compile(r"://[^/@:]*:[^/@]+@|\b\w*(passw(or)?d|pwd)\s*=", re.IGNORECASE)
_IDENTIFIERS = re.compile(r"\s*[\w.]+(\s+(asc|desc))?(\s*,\s*[\w.]+(\s+(asc|desc))?)*\s*", re.IGNORECASE)
_TABLE = re.compile(r"[\w.]+")


class Sql(Plugin):
    """Rows of a table or query of a database; every column becomes one of the row's.

    `query` or `table` says what to read, or `data` does (one, or a mapping of names to them); `eval_data` is a table or
    query of the same database.
    """

    database: str | None = None
    """The one thing that `connect` takes: a file (SQLite) or an address; with a password in it give `env:NAME`."""
    module: str = "sqlite3"
    """The module of the database: `sqlite3`, `psycopg`, `duckdb`, `adbc_driver_postgresql.dbapi`, ..."""
    connect: dict[str, Argument] = Field(default={})
    """More arguments of the module's `connect`; secrets as `env:NAME`."""
    query: str | None = None
    """The query to read, ending in an ORDER BY that leaves no ties."""
    table: str | None = None
    """The table to read whole, instead of a query."""
    order_by: str | None = None
    """Columns that order the rows without ties (`id`, `day, id desc`), where the query has no ORDER BY."""
    version_query: str | None = None
    """A query whose result changes when the rows do; none: all rows are hashed before they are prepared."""
    fetch: int = Field(default=1_000, ge=1)
    """Rows fetched at a time."""
    retry_minutes: float = Field(default=10.0, ge=0)
    """Minutes for which what fails (a lost connection, a locked database) is tried again before the run gives up."""

    @field_validator("database")
    @classmethod
    def _no_password(cls, value: str | None) -> str | None:
        if value and not value.startswith("env:") and _WITH_PASSWORD.search(value):
            raise ValueError("there is a password in it; put the address into an environment variable, give 'env:NAME'")
        return value

    @field_validator("connect")
    @classmethod
    def _no_secrets(cls, value: dict[str, Argument]) -> dict[str, Argument]:
        for name, given in value.items():
            if _SECRET.search(name) and not str(given).startswith("env:"):
                raise ValueError(f"'{name}' is a secret; put it into an environment variable, give 'env:NAME'")
        return value

    @field_validator("table")
    @classmethod
    def _plain_table(cls, value: str | None) -> str | None:
        if value is not None and not _TABLE.fullmatch(value):
            raise ValueError(f"'{value}' is no plain name of a table; write it as a query, with its quotes")
        return value

    @field_validator("order_by")
    @classmethod
    def _plain_order(cls, value: str | None) -> str | None:
        if value is not None and not _IDENTIFIERS.fullmatch(value):
            raise ValueError(f"'{value}' is no list of columns; give 'id' or 'day, id desc', or write it in the query")
        return value

    @model_validator(mode="after")
    def _one_of_query_and_table(self) -> Sql:
        if self.query and self.table:
            raise ValueError("'query' and 'table' both say what to read; give one of them")
        return self

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report that nothing, or two things, say what to read."""
        own = "query" if self.query else "table" if self.table else None
        if own and run.config.data:
            yield Problem(f"'data' and 'sql.{own}' both say what to read; leave one of them out")
        if not own and not run.config.data:
            yield Problem("'sql' is not told what to read; give '--sql.table NAME' or '--sql.query \"SELECT ...\"'")
        if not self.database and not self.connect:
            yield Problem("'sql' is given no database; name one with '--sql.database FILE-OR-ADDRESS'")

    @hookimpl
    def hfx_source(self, split: str, run: Run) -> Rows:
        from hfx_plugins.sources.sql_database_impl import Database
        from hfx_plugins.sources.sql_fetch_impl import queries
        from hfx_plugins.sources.sql_impl import SqlSource

        data = run.config.eval_data if split == "eval" else self.query or self.table or run.config.data
        named = data if isinstance(data, dict) else {"data" if split == "train" else "eval_data": data or ""}
        database = Database(self.module, self.database, tuple(self.connect.items()))
        asked = queries(named, self.order_by)
        return Rows(SqlSource(database, asked, self.version_query, self.fetch, self.retry_minutes * 60))
