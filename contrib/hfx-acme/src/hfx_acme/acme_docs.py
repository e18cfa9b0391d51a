"""Acme's document store: the texts of a table of an SQLite database."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hfx import Plugin, Problem, Rows, hookimpl

if TYPE_CHECKING:
    from hfx import Run


class AcmeDocs(Plugin):
    """Rows from Acme's document store: one column of a table of an SQLite database, as the column text."""

    database: Path
    """The database's file; it is opened read-only."""
    table: str = "documents"
    """The table, or a view."""
    text: str = "body"
    """The column that holds the text."""
    key: str = "id"
    """The column that orders the rows and names them in reports; its values are whole numbers, each once."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterable[Problem]:
        """Report data that this source has no use for."""
        if run.config.data or run.config.eval_data:
            yield Problem(
                "'acme_docs' reads no 'data' or 'eval_data'; leave them out, or drop it with '--plugin no:acme_docs'"
            )

    @hookimpl
    def hfx_source(self) -> Rows:
        """Return the rows of the table, in the order of their keys."""
        from hfx_acme.acme_docs_impl import Documents

        return Rows(Documents.opened(self.database, self.table, self.text, self.key))
