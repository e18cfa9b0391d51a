"""Which texts repeat an earlier one: 24 bytes a row, sorted."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import xxhash

from hfx import Drops, Row
from hfx_plugins.cleaning.compared_impl import Compared, refuse_missing

REASON = "duplicate"
_SEPARATOR = "\x1f"
"""Between a row's strings; it counts as whitespace, so none is left inside of a collapsed one."""


def sketch(rows: Iterable[Row], columns: Sequence[str] | None, lowercase: bool, collapse: bool, folder: Path) -> None:
    """Write number and digest of each row that has strings into the folder."""
    numbers, digests = array("q"), bytearray()
    compared = Compared(rows, columns)
    for number, strings in compared:
        if strings:
            numbers.append(number)
            digests += xxhash.xxh3_128_digest(_normalised(strings, lowercase, collapse))
    (folder / "numbers").write_bytes(numbers.tobytes())
    (folder / "digests").write_bytes(digests)
    compared.save(folder)


def repeated(folders: Sequence[Path], step: str) -> Drops:
    """Return the numbers of the rows whose strings are those of a row with a lower number.

    Raises:
        DataError: no row has one of the columns to compare.
    """
    refuse_missing(folders, step)
    numbers = np.concatenate([np.fromfile(folder / "numbers", np.int64) for folder in folders])
    halves = np.concatenate([np.fromfile(folder / "digests", "<u8") for folder in folders]).reshape(-1, 2)
    order = np.lexsort((numbers, halves[:, 0], halves[:, 1]))
    ordered = halves[order]
    again = np.zeros(len(order), bool)
    again[1:] = (ordered[1:] == ordered[:-1]).all(axis=1)
    facts = {"rows": len(order), "clusters": int((again[1:] & ~again[:-1]).sum())}
    return Drops(dict.fromkeys(numbers[order[again]].tolist(), REASON), facts)


def _normalised(strings: list[str], lowercase: bool, collapse: bool) -> bytes:
    if collapse:
        strings = [" ".join(text.split()) for text in strings]
    text = _SEPARATOR.join(strings)
    return (text.lower() if lowercase else text).encode("utf-8", "surrogatepass")
