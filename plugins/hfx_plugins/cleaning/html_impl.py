"""Which strings are HTML, and what text they hold."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from hfx import Drop, Row
from hfx_plugins.cleaning.columns_impl import strings_of
from hfx_plugins.cleaning.html_depth_impl import too_deep
from hfx_plugins.cleaning.html_layout_impl import BLOCKS, laid_out

if TYPE_CHECKING:
    from hfx_plugins.cleaning.html import Html

_INLINE = (
    "a abbr address b bdi bdo big cite code data del dfn em font i ins kbd label mark q rp rt ruby s samp small span "
    "strike strong sub sup time tt u var"
)
_OTHER = (
    "audio body button canvas embed head html iframe img input link map meta noscript object picture script select "
    "source style svg template textarea title video"
)
# Without attributes and an end tag, few names say enough: `<source>` may be a placeholder, `List<Object>` a type.
_BARE = "html body div ul ol li table tr td th h1 h2 h3 h4 h5 h6 blockquote img span"
_ANY = "|".join([*BLOCKS, *_INLINE.split(), *_OTHER.split()])
_HTML = re.compile(
    rf"<(?:!doctype\s+html\b|/(?:{_ANY})\s*>|(?:{_ANY})\s+[a-z-]{{1,40}}\s*=|(?:br|hr|p)\s*/?>)"
    rf"|(?<!\w)<(?:{'|'.join(_BARE.split())})\s*>",
    re.IGNORECASE,
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNREADABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def is_html(text: str) -> bool:
    """Return whether a text has HTML tags."""
    return "<" in text and _HTML.search(text) is not None


def to_text(row: Row, options: Html) -> Row | Drop:
    """Return the row with its HTML as text, or why it is dropped."""
    found = [text for text in strings_of(row, options.columns, options.name) if is_html(text.value)]
    read: list[str] = []
    for text in found:
        outcome = _read(text.value, options)
        if isinstance(outcome, Drop):
            return outcome
        read.append(outcome)
    # Only now: a dropped row is shown as it was read.
    changed = False
    for text, value in zip(found, read, strict=True):
        changed |= text.value != value
        text.value = value
    if changed:
        row.reasons.append(f"{options.name}.{'main_text' if options.main_text else 'text'}")
    return row


def _read(html: str, options: Html) -> str | Drop:
    if len(html) > options.max_characters:
        return Drop("too_long")
    if too_deep(html, options.max_depth):
        return Drop("too_deep")
    if options.main_text:
        return main_text(html) or Drop("no_main_text")
    return laid_out(_SURROGATE.sub("\ufffd", html), options.keep_navigation) or Drop("no_text")


def main_text(html: str) -> str:
    """Return the main text of a page, or nothing."""
    return (_trafilatura().extract(_UNREADABLE.sub("\ufffd", html)) or "").strip()


@cache
def _trafilatura() -> Any:
    import logging

    import trafilatura

    # It reports every page without a main text as an error on the terminal; here the reason is counted instead.
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    return trafilatura
