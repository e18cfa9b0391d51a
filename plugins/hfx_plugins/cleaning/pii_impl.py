"""Personal data of a row: found kind by kind, masked or a reason to drop the row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfx import Drop, Row
from hfx_plugins.cleaning.columns_impl import strings_of
from hfx_plugins.cleaning.pii_find_impl import FINDERS

if TYPE_CHECKING:
    from hfx_plugins.cleaning.pii import Pii


PASSES = 5
"""How often a text is looked at again, at most: a mask of one's own may be a find itself."""


def guard(row: Row, options: Pii) -> Row | Drop:
    """Return the row with its finds masked, or the drop."""
    texts = strings_of(row, options.columns, options.name)
    kinds = [kind for kind in FINDERS if getattr(options, kind)]
    if options.action == "drop":
        found = next((kind for kind in kinds if any(_holds(text.value, kind) for text in texts)), None)
        return Drop(found) if found else row
    reasons: set[str] = set()
    for text in texts:
        value = text.value
        masked, hit = mask(value, kinds, options.mask)
        if masked != value:
            text.value = masked
            reasons |= hit
    row.reasons += [f"{options.name}.{kind}" for kind in kinds if kind in reasons]
    return row


def _holds(text: str, kind: str) -> bool:
    return next(iter(FINDERS[kind](text)), None) is not None


def mask(text: str, kinds: list[str], written: str) -> tuple[str, set[str]]:
    """Return a text with the finds of some kinds written over, and which kinds there were.

    What is written over one may have hidden another: digits behind an address were no card's.
    """
    hit: set[str] = set()
    for _ in range(PASSES):
        before = text
        text, found = _masked_once(text, kinds, written)
        hit |= found
        if text == before:
            break
    return text, hit


def _masked_once(text: str, kinds: list[str], written: str) -> tuple[str, set[str]]:
    hit: set[str] = set()
    for kind in kinds:
        over = written.replace("{KIND}", kind.upper()).replace("{kind}", kind)
        pieces, at = [], 0
        for start, end in FINDERS[kind](text):
            pieces += [text[at:start], over]
            at = end
        if pieces:
            text = "".join([*pieces, text[at:]])
            hit.add(kind)
    return text, hit
