"""The figures that `rouge_score` and `sacrebleu` themselves have for some texts."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

FIGURES = ("rouge_1", "rouge_2", "rouge_l", "bleu", "chrf")


def of_libraries(written: Sequence[str], meant: Sequence[str]) -> dict[str, float]:
    """Return the figures of the libraries' corpus functions; of ROUGE the mean over rows, rounded once."""
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    each = [scorer.score(theirs, ours) for ours, theirs in zip(written, meant, strict=True)]
    means = {
        f"rouge_{name[5:].lower()}": float(sum(Fraction(found[name].fmeasure) for found in each) / len(each))
        for name in scorer.rouge_types
    }
    corpus = {"bleu": sacrebleu.BLEU(), "chrf": sacrebleu.CHRF()}
    return means | {name: metric.corpus_score(written, [meant]).score for name, metric in corpus.items()}


def scores_of(figures: dict[str, float], prefix: str = "eval_") -> dict[str, float]:
    """Return the scores among an evaluation's figures."""
    return {name: figures[prefix + name] for name in FIGURES}
