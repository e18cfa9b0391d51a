"""HTML turned into the text that a reader sees."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from pydantic import PositiveInt

from hfx import Drop, Plugin, Problem, Row, Rows, hookimpl


class Html(Plugin):
    """Turn HTML into plain text: scripts, styles and navigation out, one line for each block, entities decoded.

    Only text with HTML tags is touched (`List<int>` and `a < b` have none); a touched row counts as changed under
    `text` or `main_text`. Paragraphs and headings stand between blank lines, items and table rows on lines of their
    own, cells between tabs, and preformatted text keeps its spaces. Broken HTML is read as a browser would. Rows are
    dropped as `no_text` where nothing is left, and as `too_long` or `too_deep` where reading would take too long.

    Source code that prints HTML looks like HTML, too: name the columns that hold web pages.
    """

    columns: list[str] | None = None
    """Columns to turn into text; none: every string of the row, those inside lists and mappings included."""
    main_text: bool = False
    """Keep a page's main text only, as trafilatura finds it; for whole pages, and some ten times slower.

    A row where it finds none is dropped as `no_main_text`.
    """
    keep_navigation: bool = False
    """Keep what stands in `nav`, `header`, `footer` and `aside`; main text never has it."""
    max_characters: PositiveInt = 5_000_000
    """Longest HTML that is read; a row with a longer one is dropped as `too_long`."""
    max_depth: PositiveInt = 1000
    """Most open tags inside each other; a row with more is dropped as `too_deep`. Real pages have some dozens."""

    @hookimpl
    def hfx_check(self) -> Iterator[Problem]:
        """Report a package that is not installed."""
        from hfx_plugins.cleaning.columns_impl import missing

        yield from missing(self.name, "trafilatura" if self.main_text else "selectolax")

    @hookimpl(wrapper=True)
    def hfx_source(self) -> Generator[None, Rows, Rows]:
        """Return the rows with this step at the end."""
        rows = yield
        return rows.then(self)

    def apply(self, rows: list[Row]) -> list[Row | Drop]:
        """Return each row as text, or why it is dropped."""
        from hfx_plugins.cleaning.html_impl import to_text

        return [to_text(row, self) for row in rows]
