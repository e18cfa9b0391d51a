"""FineWeb's own rules (https://arxiv.org/abs/2406.17557): endings, short lines, repeated lines, lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfx_plugins.cleaning.document_impl import TERMINAL, Document, repeated

if TYPE_CHECKING:
    from hfx_plugins.cleaning.quality import Quality


def fineweb(document: Document, limits: Quality) -> str | None:
    """Return the first rule that the document breaks; a line of nothing but spaces is none."""
    text = document.text
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return "fineweb_empty"
    if limits.fineweb_min_punctuated_lines is not None:
        ended = sum(line[-1] in TERMINAL for line in lines)
        excused = limits.fineweb_allow_no_punctuation and not ended
        if ended / len(lines) < limits.fineweb_min_punctuated_lines and not excused:
            return "fineweb_no_terminal_punct"
    if limits.fineweb_max_short_lines is not None:
        longest = limits.fineweb_short_line
        if sum(len(line) <= longest for line in lines) / len(lines) > limits.fineweb_max_short_lines:
            return "fineweb_short_lines"
    breaks = text.count("\n")
    most = limits.fineweb_max_repeated_characters
    if most is not None and repeated(lines)[1] / (len(text) - breaks) > most:
        return "fineweb_repeated_characters"
    most = limits.fineweb_max_line_breaks
    if most is not None and breaks / len(document.words) > most:
        return "fineweb_line_breaks"
    return None
