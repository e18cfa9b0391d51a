"""Gopher's rules of repetition (https://arxiv.org/abs/2112.11446, table A1): paragraphs, lines and n-grams."""

from __future__ import annotations

import re
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING

from hfx_plugins.cleaning.document_impl import Document, repeated

if TYPE_CHECKING:
    from hfx_plugins.cleaning.quality import Quality

_PARAGRAPH_END = re.compile(r"\n{2,}")
_LINE_END = re.compile(r"\n+")


def repetition(document: Document, limits: Quality) -> str | None:
    """Return the first rule that the document breaks."""
    text = document.text
    if not text:
        return "repetition_empty"
    return (
        _parts("paragraph", _PARAGRAPH_END.split(text.strip()), len(text), limits)
        or _parts("line", _LINE_END.split(text), len(text), limits)
        or _top(document.words, len(text), limits)
        or _duplicates(document.words, len(text), limits)
    )


def _parts(kind: str, parts: list[str], size: int, limits: Quality) -> str | None:
    share, share_of_characters = {
        "paragraph": (limits.repetition_max_paragraphs, limits.repetition_max_paragraph_characters),
        "line": (limits.repetition_max_lines, limits.repetition_max_line_characters),
    }[kind]
    count, characters = repeated(parts)
    if share is not None and count / len(parts) > share:
        return f"repetition_{kind}s"
    if share_of_characters is not None and characters / size > share_of_characters:
        return f"repetition_{kind}_characters"
    return None


def _top(words: list[str], size: int, limits: Quality) -> str | None:
    """Judge the n-gram that comes most often, the earliest among equals, with the spaces between its words."""
    for n, share in limits.repetition_max_top.items():
        counts = Counter(zip(*(words[at:] for at in range(n)), strict=False))
        if not counts:
            continue
        most = max(counts.values())
        gram = next(gram for gram, count in counts.items() if count == most)
        if (sum(map(len, gram)) + n - 1) * most / size > share:
            return f"repetition_top_{n}_gram"
    return None


def _duplicates(words: list[str], size: int, limits: Quality) -> str | None:
    """Judge the n-grams that came before, compared and counted without the spaces between their words."""
    if not limits.repetition_max_duplicate:
        return None
    joined, starts = "".join(words), list(accumulate(map(len, words), initial=0))
    suspects = _suspects(joined, starts, min(limits.repetition_max_duplicate))
    for n, share in limits.repetition_max_duplicate.items():
        if _repeated_characters(joined, starts, suspects, n) / size > share:
            return f"repetition_duplicate_{n}_gram"
    return None


def _suspects(joined: str, starts: list[int], n: int) -> list[int]:
    """Return the words at which an n-gram, or a longer one, may equal another.

    Equal ones begin with the same characters, as many as the shortest n-gram has: few words do, and n-grams at any
    other word need not be looked at.
    """
    shortest = min((end - start for start, end in zip(starts, starts[n:], strict=False)), default=0)
    beginnings = [joined[start : start + shortest] for start in starts[:-n]]
    counts = Counter(beginnings)
    return [at for at, beginning in enumerate(beginnings) if counts[beginning] > 1]


def _repeated_characters(joined: str, starts: list[int], suspects: list[int], n: int) -> int:
    """Return the characters in n-grams that came before; those counted do not overlap."""
    seen: set[str] = set()
    total = free = 0
    for at in suspects:
        if at < free or at + n >= len(starts):
            continue
        gram = joined[starts[at] : starts[at + n]]
        if gram in seen:
            total += len(gram)
            free = at + n
        else:
            seen.add(gram)
    return total
