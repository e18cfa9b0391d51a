"""Rows whose text is almost that of an earlier one."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from pydantic import Field, PositiveInt

from hfx import Drops, Plugin, Problem, Row, Rows, hookimpl


class NearDedup(Plugin):
    """Drop rows whose text is nearly that of an earlier row.

    Texts are compared by their runs of `ngram` words, in which case and punctuation do not count; MinHash finds the
    candidates (18 bands of 7 rows), and only those that really share enough are linked. Of rows that are linked, also
    through others, the one with the lowest number stays. Rows without a word are kept.
    """

    columns: list[str] | None = None
    """Columns to compare; none: every string of the row, those inside lists and mappings included."""
    threshold: float = Field(default=0.7, ge=0.5, le=1)
    """Rows that share at least this part of all their runs of words (Jaccard) are near-duplicates.

    The bands offer 99 of 100 pairs that share 0.8, 79 that share 0.7, 40 that share 0.6 and 13 that share 0.5.
    """
    ngram: PositiveInt = Field(default=5, le=32)
    """Words in a run; a shorter text is one run."""

    @hookimpl
    def hfx_check(self) -> Iterator[Problem]:
        """Report a missing package before any data is read."""
        if find_spec("rensa") is None:
            yield Problem(f"'{self.name}' needs the package rensa; pip install 'hfx[dedup]'")

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
        """Write signatures and sets of these rows' texts into the folder."""
        from hfx_plugins.cleaning.near_dedup_impl import sketch

        sketch(rows, self.columns, self.ngram, folder, self.name)

    def decide(self, folders: Sequence[Path]) -> Drops:
        """Return the numbers of the rows to drop, from the sketches of all."""
        from hfx_plugins.cleaning.near_dedup_impl import near_duplicates

        return near_duplicates(folders, self.threshold, self.name)
