"""Which texts repeat an earlier one: 24 bytes a row, sorted."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
import xxhash

from hfx import Drops

REASON = "duplicate"
_SEPARATOR = "\x1f"
"""Between a row's strings; it counts as whitespace, so none is left inside of a collapsed one."""


def repeated(texts: Iterable[tuple[int, list[str]]], lowercase: bool, collapse: bool) -> Drops:
    """Return the numbers of the rows whose strings are those of a row with a lower number."""
    numbers, digests = array("q"), bytearray()
    for number, strings in texts:
        if strings:
            numbers.append(number)
            digests += xxhash.xxh3_128_digest(_normalised(strings, lowercase, collapse))
    ordinals = np.frombuffer(numbers, np.int64)
    halves = np.frombuffer(digests, "<u8").reshape(-1, 2)
    order = np.lexsort((ordinals, halves[:, 0], halves[:, 1]))
    ordered = halves[order]
    again = np.zeros(len(order), bool)
    again[1:] = (ordered[1:] == ordered[:-1]).all(axis=1)
    facts = {"rows": len(order), "clusters": int((again[1:] & ~again[:-1]).sum())}
    return Drops(dict.fromkeys(ordinals[order[again]].tolist(), REASON), facts)


def _normalised(strings: list[str], lowercase: bool, collapse: bool) -> bytes:
    if collapse:
        strings = [" ".join(text.split()) for text in strings]
    text = _SEPARATOR.join(strings)
    return (text.lower() if lowercase else text).encode("utf-8", "surrogatepass")
