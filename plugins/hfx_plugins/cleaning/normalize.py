"""Unicode that means the same, written the same way."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from hfx import Drop, Plugin, Problem, Row, Rows, hookimpl


class Normalize(Plugin):
    """Mend broken Unicode: mojibake, control, invisible and bidirectional characters, line ends, and the form NFC.

    A changed row counts once for each kind of change: `encoding`, `newlines`, `control`, `zero_width`, `bidi`, `nfc`.
    What comes out is left alone the next time. Letters, quotes and ligatures that were typed on purpose stay, and so
    do HTML entities, which are the business of `html`.
    """

    columns: list[str] | None = None
    """Columns to mend; none: every string of the row, those inside lists and mappings included."""
    encoding: bool = True
    """Undo text that was decoded with a wrong encoding (`schÃ¶n` becomes `schön`), line by line, with ftfy.

    Plain ASCII is never looked at, which makes English text many times faster.
    """
    newlines: bool = True
    r"""Write every line end as `\n`: `\r\n`, `\r`, vertical tab, form feed, NEL, and Unicode's line and paragraph
    separators."""
    control: bool = True
    r"""Remove control characters but `\n` and `\t`, noncharacters, and the escape sequences that colour a terminal."""
    zero_width: bool = True
    """Remove characters nobody sees: zero-width spaces, joiners and non-joiners, byte order marks, soft hyphens, tags.

    A joiner stays where it is spelling: between two emoji, and behind a letter of a script that uses it (Arabic and
    Persian, Syriac, the scripts of India and Sri Lanka, Tibetan, Burmese, Khmer, Mongolian). Tags stay in flags.
    """
    bidi: bool = True
    """Remove the marks that change the direction of text: embeddings, overrides, isolates, and the marks themselves.

    They hide what a text says from whoever reviews it. Arabic and Hebrew need none in plain running text.
    """
    nfc: bool = True
    """Compose letters and their accents (Unicode's form NFC), so that equal text has equal tokens."""

    @hookimpl
    def hfx_check(self) -> Iterator[Problem]:
        """Report a package that is not installed."""
        from hfx_plugins.cleaning.columns_impl import missing

        yield from missing(self.name, *(["ftfy"] if self.encoding else []))

    @hookimpl(wrapper=True)
    def hfx_source(self) -> Generator[None, Rows, Rows]:
        """Return the rows with this step at the end."""
        rows = yield
        return rows.then(self)

    def apply(self, rows: list[Row]) -> list[Row | Drop]:
        """Return every row, mended."""
        from hfx_plugins.cleaning.normalize_impl import mend

        return [mend(row, self) for row in rows]
