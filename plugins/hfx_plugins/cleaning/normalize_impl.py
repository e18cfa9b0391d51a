"""What is mended in a text, kind by kind, until nothing is left to mend."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from hfx import Row
from hfx_plugins.cleaning.columns_impl import strings_of

if TYPE_CHECKING:
    from hfx_plugins.cleaning.normalize import Normalize

_NEWLINES = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# Line ends are not among them, so that `newlines` alone decides; half of a UTF-16 pair is, as UTF-8 cannot carry it.
_CONTROL = re.compile(
    r"\x1b\[[0-9;?]*[A-Za-z]"
    "|[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]"
)
_EMOJI = "\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u2bff\u3030\u303d\u3297\u3299\ufe0f\U0001f000-\U0001faff"
_JOINING = (
    "\u0600-\u109f\u1780-\u18af\ua8e0-\ua8ff\ua980-\ua9df\uaa60-\uaa7f\ufb50-\ufdcf\ufe70-\ufefc\U00011000-\U00011fff"
)
_ZERO_WIDTH = re.compile(
    "(\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f)"
    f"|(?<![{_EMOJI}{_JOINING}])\u200d|(?<=[{_EMOJI}])\u200d(?![{_EMOJI}])"
    f"|(?<![{_JOINING}])\u200c"
    "|[\u00ad\u200b\u2060-\u2064\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def mend(row: Row, options: Normalize) -> Row:
    """Return the row with every string mended, and a reason for each kind of change."""
    reasons: dict[str, None] = {}
    for text in strings_of(row, options.columns, options.name):
        value = text.value
        mended, kinds = normalised(value, options)
        if mended != value:
            text.value = mended
            reasons |= dict.fromkeys(kinds)
    row.reasons.extend(f"{options.name}.{kind}" for kind in reasons)
    return row


def normalised(text: str, options: Normalize) -> tuple[str, list[str]]:
    """Return a text and the kinds of what was mended; one kind can uncover another, so it goes on until all rest."""
    kinds: dict[str, None] = {}
    again = True
    while again:
        again = False
        for kind, mending in _MENDINGS.items():
            if not getattr(options, kind):
                continue
            mended = mending(text)
            if mended != text:
                text, again = mended, True
                kinds[kind] = None
    return text, list(kinds)


def _decoded(text: str) -> str:
    return text if text.isascii() else _ftfy()(text)


@cache
def _ftfy() -> Callable[[str], str]:
    import ftfy

    config = ftfy.TextFixerConfig(
        unescape_html=False, remove_terminal_escapes=False, fix_latin_ligatures=False, fix_character_width=False,
        uncurl_quotes=False, fix_line_breaks=False, remove_control_chars=False, normalization=None, explain=False,
    )  # fmt: skip
    return lambda text: str(ftfy.fix_text(text, config))


def _composed(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


_MENDINGS: dict[str, Callable[[str], str]] = {
    "encoding": _decoded,
    "newlines": lambda text: _NEWLINES.sub("\n", text),
    "control": lambda text: _CONTROL.sub("", text),
    "zero_width": lambda text: text if text.isascii() else _ZERO_WIDTH.sub(r"\1", text),
    "bidi": lambda text: text if text.isascii() else _BIDI.sub("", text),
    "nfc": _composed,
}
