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
    joined, starts = "".join(words), list(accumulate(map(len, words), initial=0))
    for n, share in limits.repetition_max_duplicate.items():
        if _repeated_characters(joined, starts, n) / size > share:
            return f"repetition_duplicate_{n}_gram"
    return None


def _repeated_characters(joined: str, starts: list[int], n: int) -> int:
    """Return the characters in n-grams that came before; those counted do not overlap."""
    grams = [joined[start:end] for start, end in zip(starts, starts[n:], strict=False)]
    seen: set[str] = set(grams)
    if len(seen) == len(grams):
        return 0
    seen.clear()
    at = total = 0
    while at < len(grams):
        if grams[at] in seen:
            total += len(grams[at])
            at += n
        else:
            seen.add(grams[at])
            at += 1
    return total
