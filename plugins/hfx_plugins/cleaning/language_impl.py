"""Detecting the language of a row, with one model a process."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from hfx import Drop, Row
from hfx_plugins.cleaning.columns_impl import strings_of

if TYPE_CHECKING:
    from hfx_plugins.cleaning.language import Language

NO_LANGUAGE = "zxx"
UNCERTAIN = "uncertain"
_LETTER = re.compile(r"[^\W\d_]")


def judge(row: Row, options: Language) -> Row | Drop:
    """Return the row, or its language where that is not kept."""
    code, probability = detected(_text(row, options))
    if options.keep is not None and code not in options.keep:
        return Drop(code)
    if probability < options.min_probability:
        return Drop(UNCERTAIN)
    row.marks[options.name] = code
    if options.column is not None and row.values.get(options.column) != code:
        row.values[options.column] = code
        row.reasons.append(f"{options.name}.{code}")
    return row


def _text(row: Row, options: Language) -> str:
    columns = options.columns
    if columns is None and options.column in row.values:
        columns = [name for name in row.values if name != options.column]
    return "\n".join(text.value for text in strings_of(row, columns, options.name))[: options.read]


def detected(text: str) -> tuple[str, float]:
    """Return the code and probability of a text's language; text without a letter has none, for certain."""
    if not _LETTER.search(text):
        return NO_LANGUAGE, 1.0
    return _classify()(text)


@cache
def _classify() -> Callable[[str], tuple[str, float]]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    classify: Callable[[str], tuple[str, float]] = LanguageIdentifier.from_model_file(
        MODEL_FILE, norm_probs=True
    ).classify
    return classify
