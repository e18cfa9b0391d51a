"""Scores of a text that was written against the one that was meant, as whole numbers that ranks add up.

What is counted, and what follows from the counts, are the libraries' own: `rouge_score` and `sacrebleu`.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import ClassVar, Protocol

_DIGIT = 26
"""Bits of a digit: three hold a fraction of a text of any length, and their sums are exact over 100 million rows."""
_DIGITS = 3


class Score(Protocol):
    """Counts of one kind, of a row and then of all rows."""

    size: int
    """How many numbers the counts are."""

    def count(self, written: str, meant: str) -> list[int]:
        """Return the counts of one row, `size` whole numbers."""

    def figures(self, sums: Sequence[int]) -> dict[str, float]:
        """Return what follows from the sums of all rows' counts; there is one row at least."""


class Rouge:
    """The mean over rows of ROUGE-1, -2 and -L, as F-measures from 0 to 1.

    A sum of fractions depends on its order, and so on the number of ranks; one of their digits does not.
    """

    size = 1 + 3 * _DIGITS
    _names: ClassVar = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l"}

    def __init__(self) -> None:
        from rouge_score.rouge_scorer import RougeScorer

        self._scorer = RougeScorer(list(self._names))

    def count(self, written: str, meant: str) -> list[int]:
        """Return 1, for the row, and the digits of each F-measure."""
        found = self._scorer.score(meant, written)
        return [1, *(digit for name in self._names for digit in _digits(found[name].fmeasure))]

    def figures(self, sums: Sequence[int]) -> dict[str, float]:
        """Return the mean of each F-measure."""
        rows, *digits = sums
        parts = (digits[at : at + _DIGITS] for at in range(0, len(digits), _DIGITS))
        return {name: float(_number(part) / rows) for name, part in zip(self._names.values(), parts, strict=True)}


class Bleu:
    """BLEU of all rows together, from 0 to 100, as `sacrebleu` has it by default (`13a`, smoothed by `exp`)."""

    size = 2 + 2 * 4

    def __init__(self) -> None:
        from sacrebleu import BLEU

        # Of a row only its counts are taken; without the option the library warns of the score.
        self._bleu = BLEU(effective_order=True)

    def count(self, written: str, meant: str) -> list[int]:
        """Return both lengths, how many n-grams are right, and how many there are."""
        found = self._bleu.sentence_score(written, [meant])
        return [found.sys_len, found.ref_len, *found.counts, *found.totals]

    def figures(self, sums: Sequence[int]) -> dict[str, float]:
        """Return the score."""
        length, meant, *grams = sums
        right, there = grams[:4], grams[4:]
        return {"bleu": float(self._bleu.compute_bleu(right, there, length, meant, smooth_method="exp").score)}


class Chrf:
    """chrF2 of all rows together, from 0 to 100, as `sacrebleu` has it by default: n-grams of up to 6 characters."""

    _order = 6
    _beta = 2
    size = 3 * _order

    def count(self, written: str, meant: str) -> list[int]:
        """Return, of each length of n-grams, how many were written, meant, and are in both."""
        from sacrebleu import extract_char_ngrams

        counts: list[int] = []
        for length in range(1, self._order + 1):
            ours, theirs = extract_char_ngrams(written, length), extract_char_ngrams(meant, length)
            # What is written where nothing so long was meant is no mistake.
            counts += [ours.total() if theirs else 0, theirs.total(), (ours & theirs).total()]
        return counts

    def figures(self, sums: Sequence[int]) -> dict[str, float]:
        """Return the score: the F-measure of the mean precision and the mean recall."""
        each = [sums[at : at + 3] for at in range(0, len(sums), 3)]
        there = [(written, meant, right) for written, meant, right in each if written and meant]
        precision = sum((right / written for written, _, right in there), 0.0) / max(1, len(there))
        recall = sum((right / meant for _, meant, right in there), 0.0) / max(1, len(there))
        if not precision + recall:
            return {"chrf": 0.0}
        factor = self._beta**2
        # In the order in which the library multiplies and divides, so that no bit differs.
        return {"chrf": 100 * ((1 + factor) * precision * recall / (factor * precision + recall))}


SCORES: dict[str, type[Score]] = {"rouge": Rouge, "bleu": Bleu, "chrf": Chrf}


def _digits(number: float) -> list[int]:
    """Return a number from 0 to 1 as digits of `_DIGIT` bits behind the point, the first one up to 1 itself."""
    found = []
    for _ in range(_DIGITS):
        number *= 2**_DIGIT
        found.append(int(number))
        number -= found[-1]
    return found


def _number(digits: Sequence[int]) -> Fraction:
    """Return the number that digits, or sums of them, stand for."""
    return sum((Fraction(digit, 2 ** (_DIGIT * (at + 1))) for at, digit in enumerate(digits)), Fraction(0))
