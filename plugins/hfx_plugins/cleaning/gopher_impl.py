"""Gopher's rules of quality (https://arxiv.org/abs/2112.11446, appendix A): length, words, symbols and lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfx_plugins.cleaning.document_impl import PUNCTUATION, Document

if TYPE_CHECKING:
    from hfx_plugins.cleaning.quality import Quality


def gopher(document: Document, limits: Quality) -> str | None:
    """Return the first rule that the document breaks; a document without words is too short."""
    words = document.words
    if not words:
        return "gopher_too_short"
    return (
        _lengths(words, limits)
        or _symbols(document.text, len(words), limits)
        or _lines(document.text.splitlines(), limits)
        or _language(words, limits)
    )


def _lengths(words: list[str], limits: Quality) -> str | None:
    """Judge the words that are more than punctuation."""
    marks = list(filter(PUNCTUATION.issuperset, words))
    count = len(words) - len(marks)
    if limits.gopher_min_words is not None and count < limits.gopher_min_words:
        return "gopher_too_short"
    if limits.gopher_max_words is not None and count > limits.gopher_max_words:
        return "gopher_too_long"
    if not count:
        return None
    mean = (sum(map(len, words)) - sum(map(len, marks))) / count
    if limits.gopher_min_word_length is not None and mean < limits.gopher_min_word_length:
        return "gopher_short_words"
    if limits.gopher_max_word_length is not None and mean > limits.gopher_max_word_length:
        return "gopher_long_words"
    return None


def _symbols(text: str, words: int, limits: Quality) -> str | None:
    most = limits.gopher_max_symbols
    if most is None:
        return None
    if text.count("#") / words > most:
        return "gopher_hashes"
    if (text.count("...") + text.count("…")) / words > most:
        return "gopher_ellipses"
    return None


def _lines(lines: list[str], limits: Quality) -> str | None:
    if limits.gopher_max_bullet_lines is not None:
        bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines)
        if bullets / len(lines) > limits.gopher_max_bullet_lines:
            return "gopher_bullet_lines"
    if limits.gopher_max_ellipsis_lines is not None:
        ellipses = sum(line.rstrip().endswith(("...", "…")) for line in lines)
        if ellipses / len(lines) > limits.gopher_max_ellipsis_lines:
            return "gopher_ellipsis_lines"
    return None


def _language(words: list[str], limits: Quality) -> str | None:
    if limits.gopher_min_alpha_words is not None and _alpha_words(words) / len(words) < limits.gopher_min_alpha_words:
        return "gopher_few_alpha_words"
    if limits.gopher_min_stop_words is not None:
        found = set(limits.gopher_stop_words).intersection(words)
        if len(found) < limits.gopher_min_stop_words:
            return "gopher_few_stop_words"
    return None


def _alpha_words(words: list[str]) -> int:
    """Return how many words have a letter."""
    others = [word for word in words if not word.isalpha()]
    return len(words) - len(others) + sum(any(map(str.isalpha, word)) for word in others)
