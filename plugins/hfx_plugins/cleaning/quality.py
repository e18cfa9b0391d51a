"""Rules of quality for web text, as published with Gopher, C4 and FineWeb."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from hfx import Drop, Plugin, Problem, Row, Rows, hookimpl

Share = Annotated[float, Field(ge=0)]
Family = Literal["gopher", "repetition", "c4", "fineweb"]


class Quality(Plugin):
    """Drop documents, and lines of them, that break the rules of Gopher, C4 or FineWeb.

    Every limit that may be `none` is switched off by it. The defaults are the published ones. Stop words and sentences
    are those of English, and words are what stands between spaces and punctuation.
    """

    rules: list[Family] = Field(default=["gopher", "repetition", "c4", "fineweb"], min_length=1)
    """Families of rules, applied in this order: `gopher`, `repetition` (Gopher's too), `c4`, `fineweb`."""
    columns: list[str] | None = None
    """Columns to judge, each text in them on its own; none: `text`, `content`, or the only one that holds a string."""
    splitter: Literal["regex", "spacy"] = "regex"
    """Who splits words and sentences: `regex`, nearly as spaCy does, or `spacy`, which datatrove's filters ask."""

    gopher_min_words: NonNegativeInt | None = 50
    """Fewest words; punctuation does not count."""
    gopher_max_words: NonNegativeInt | None = 100_000
    """Most words; punctuation does not count."""
    gopher_min_word_length: NonNegativeFloat | None = 3.0
    """Least mean length of a word."""
    gopher_max_word_length: NonNegativeFloat | None = 10.0
    """Greatest mean length of a word."""
    gopher_max_symbols: Share | None = 0.1
    """Most hash signs per word, and most ellipses per word."""
    gopher_max_bullet_lines: Share | None = 0.9
    """Greatest share of lines that begin with a bullet."""
    gopher_max_ellipsis_lines: Share | None = 0.3
    """Greatest share of lines that end with an ellipsis."""
    gopher_min_alpha_words: Share | None = 0.8
    """Least share of words with a letter; punctuation counts as words without."""
    gopher_min_stop_words: NonNegativeInt | None = 2
    """Fewest different stop words."""
    gopher_stop_words: list[str] = Field(default=["the", "be", "to", "of", "and", "that", "have", "with"])
    """The stop words, as they are written."""

    repetition_max_paragraphs: Share | None = 0.3
    """Greatest share of paragraphs that repeat an earlier one."""
    repetition_max_paragraph_characters: Share | None = 0.2
    """Greatest share of characters in such paragraphs."""
    repetition_max_lines: Share | None = 0.3
    """Greatest share of lines that repeat an earlier one."""
    repetition_max_line_characters: Share | None = 0.2
    """Greatest share of characters in such lines."""
    repetition_max_top: dict[PositiveInt, Share] = Field(default={2: 0.2, 3: 0.18, 4: 0.16})
    """By n: greatest share of characters in the n-gram of words that comes most often."""
    repetition_max_duplicate: dict[PositiveInt, Share] = Field(
        default={5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1}
    )
    """By n: greatest share of characters in n-grams of words that repeat an earlier one."""

    c4_min_sentences: NonNegativeInt | None = 5
    """Fewest sentences in the lines that are left."""
    c4_min_line_words: NonNegativeInt | None = 3
    """A line with fewer words is removed."""
    c4_max_word_length: NonNegativeInt | None = 1000
    """A line with a longer word is removed."""
    c4_require_punctuation: bool = True
    """Remove lines that do not end with `.`, `?`, `!` or a quotation mark, or end with an ellipsis."""
    c4_remove_citations: bool = True
    """Remove `[1]`, `[edit]` and `[citation needed]` from lines."""
    c4_remove_javascript: bool = True
    """Remove lines that mention JavaScript."""
    c4_remove_policy: bool = True
    """Remove lines that mention cookies, terms of use or a privacy policy."""
    c4_drop_lorem_ipsum: bool = True
    """Drop documents with `lorem ipsum`."""
    c4_drop_curly_bracket: bool = True
    """Drop documents with a curly bracket."""

    fineweb_min_punctuated_lines: Share | None = 0.12
    """Least share of lines that end with the mark that ends a sentence."""
    fineweb_allow_no_punctuation: bool = False
    """Let documents pass of which not a single line ends with one."""
    fineweb_max_short_lines: Share | None = 0.67
    """Greatest share of short lines."""
    fineweb_short_line: NonNegativeInt = 30
    """A line with no more characters is a short one."""
    fineweb_max_repeated_characters: Share | None = 0.01
    """Greatest share of characters in lines that repeat an earlier one."""
    fineweb_max_line_breaks: Share | None = 0.3
    """Most line breaks per word."""

    @hookimpl
    def hfx_check(self) -> Iterator[Problem]:
        """Report a missing package before any data is read."""
        if self.splitter == "spacy" and find_spec("spacy") is None:
            yield Problem(f"'{self.name}' with the splitter 'spacy' needs the package spacy; pip install 'hfx[spacy]'")

    @hookimpl(wrapper=True)
    def hfx_source(self) -> Generator[None, Rows, Rows]:
        rows = yield
        return rows.then(self)

    def apply(self, rows: list[Row]) -> list[Row | Drop]:
        """Return each row, without the lines that a rule removes, or why it is dropped."""
        from hfx_plugins.cleaning.quality_impl import judge

        return [judge(row, self) for row in rows]
