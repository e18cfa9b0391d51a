"""Words and sentences of English as spaCy splits them: what datatrove's filters judge."""

from __future__ import annotations

from typing import Any

from hfx import DataError

_BREAKS_SPACY = "IS_ALPHA"
"""spaCy takes a text with this word for an attribute and fails; datatrove leaves the word out, too."""


class Spacy:
    """spaCy's tokenizer, and its sentences by marks.

    Raises:
        DataError: spaCy is not installed.
    """

    def __init__(self, step: str) -> None:
        try:
            import spacy
        except ImportError:
            raise DataError(f"'{step}' needs the package spacy; pip install 'hfx[spacy]'") from None
        self._language = spacy.blank("en")
        self._language.add_pipe("sentencizer")

    def words(self, text: str) -> list[str]:
        """Return the words of a text in order, marks of punctuation among them."""
        with self._language.memory_zone():
            return _stripped(token.text for token in self._parsed(self._language.make_doc, text))

    def sentences(self, text: str) -> int:
        """Return how many sentences a text has."""
        with self._language.memory_zone():
            return len(_stripped(sentence.text for sentence in self._parsed(self._language, text).sents))

    def _parsed(self, parse: Any, text: str) -> Any:
        self._language.max_length = len(text) + 10
        try:
            return parse(text)
        except Exception:
            if _BREAKS_SPACY not in text:
                raise
            return parse(text.replace(_BREAKS_SPACY, ""))


def _stripped(parts: Any) -> list[str]:
    return [bare for part in parts if (bare := part.strip())]
