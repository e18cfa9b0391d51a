"""Rows whose text was there before."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

from hfx import Drops, Plugin, Row, Rows, hookimpl


class ExactDedup(Plugin):
    """Drop rows whose text equals that of an earlier row.

    Only strings are compared; rows without any are kept. Of equal rows the one with the lowest number stays.
    """

    columns: list[str] | None = None
    """Columns to compare; none: every string of the row, those inside lists and mappings included."""
    lowercase: bool = False
    """Take texts that differ in case only for equal."""
    collapse_whitespace: bool = True
    """Take texts that differ in spaces and line breaks only for equal."""

    @hookimpl(wrapper=True)
    def hfx_source(self) -> Generator[None, Rows, Rows]:
        """Return the rows with this step at the end."""
        rows = yield
        return rows.then(self)

    def drops(self, rows: Iterable[Row]) -> Drops:
        """Return the numbers of the rows to drop."""
        from hfx_plugins.cleaning.compared_impl import decided_at_once

        return decided_at_once(self, rows)

    def sketch(self, rows: Iterable[Row], folder: Path) -> None:
        """Write digests of these rows' texts into the folder."""
        from hfx_plugins.cleaning.exact_dedup_impl import sketch

        sketch(rows, self.columns, self.lowercase, self.collapse_whitespace, folder)

    def decide(self, folders: Sequence[Path]) -> Drops:
        """Return the numbers of the rows to drop, from the digests of all."""
        from hfx_plugins.cleaning.exact_dedup_impl import repeated

        return repeated(folders, self.name)
