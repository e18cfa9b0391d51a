"""Text of data, names and errors as a terminal may have it."""

from __future__ import annotations

import unicodedata

_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Signs that show what follows in another order."""


def plain(text: str) -> str:
    """Return a text with escapes in place of what would steer a terminal: it is somebody's data. Lines stay lines."""
    return "".join(sign if _harmless(sign) else sign.encode("unicode_escape").decode("ascii") for sign in text)


def _harmless(sign: str) -> bool:
    return sign in "\n\t" or (unicodedata.category(sign) not in ("Cc", "Cs") and sign not in _TURNING)
