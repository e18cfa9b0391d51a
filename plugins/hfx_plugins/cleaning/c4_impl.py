"""C4's rules (https://jmlr.org/papers/v21/20-074.html, section 2.2): some remove a line, some the whole document."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hfx_plugins.cleaning.document_impl import Document

if TYPE_CHECKING:
    from hfx_plugins.cleaning.quality import Quality

_CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")
_ENDINGS = (".", "?", "!", '"', "'")
_POLICY = re.compile("terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies")


def c4(document: Document, limits: Quality) -> str | None:
    """Remove the lines that break a rule; return the first rule that the document as a whole breaks."""
    kept: list[str] = []
    reasons: dict[str, None] = {}
    sentences = 0
    for written in document.text.splitlines():
        line = written.strip()
        words = line.split()
        if _has_long_word(words, limits.c4_max_word_length):
            reasons["c4_long_word"] = None
            continue
        if limits.c4_remove_citations and "[" in line:
            line, found = _CITATION.subn("", line)
            if found:
                reasons["c4_citation"] = None
        reason = _line(line, len(words), limits)
        if reason in ("c4_lorem_ipsum", "c4_curly_bracket"):
            return reason
        if reason is None:
            kept.append(line)
            if limits.c4_min_sentences is not None:
                sentences += document.splitter.sentences(line)
        elif words:
            reasons[reason] = None
    if limits.c4_min_sentences is not None and sentences < limits.c4_min_sentences:
        return "c4_few_sentences"
    text = "\n".join(kept).strip()
    if text != document.text:
        document.change(text, reasons or ["c4_whitespace"])
    return None


def _has_long_word(words: list[str], most: int | None) -> bool:
    return most is not None and bool(words) and max(map(len, words)) > most


def _line(line: str, words: int, limits: Quality) -> str | None:
    """Return the first rule that a line breaks."""
    if limits.c4_require_punctuation and (not line.endswith(_ENDINGS) or line.endswith("...")):
        return "c4_no_terminal_punct"
    if limits.c4_min_line_words is not None and words < limits.c4_min_line_words:
        return "c4_short_line"
    lower = line.lower()
    if limits.c4_drop_lorem_ipsum and "lorem ipsum" in lower:
        return "c4_lorem_ipsum"
    if limits.c4_remove_javascript and "javascript" in lower:
        return "c4_javascript"
    if limits.c4_drop_curly_bracket and "{" in line:
        return "c4_curly_bracket"
    if limits.c4_remove_policy and _POLICY.search(lower):
        return "c4_policy"
    return None
