"""Documents a second and core through each family of quality rules, beside datatrove's filters.

    python tests/benchmarks/bench_quality.py [--documents 2000]

Documents have 300 words. Both sides split words as hfx does, and in the last line, on a tenth of the documents, both as
spaCy does, which is datatrove's default. Each line is the best of three of both in one process; the ratio is what
carries over to other machines.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from datatrove.data import Document as TheirDocument
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.utils import word_tokenizers

from hfx import Place, Row
from hfx_plugins.cleaning.document_impl import sentence_ends, split_words
from hfx_plugins.cleaning.quality import Quality

STOPS = ["the", "be", "to", "of", "and", "that", "have", "with", "a", "in", "is", "it", "for", "on", "as", "was"]
WORDS = 300


class OwnSplitter(word_tokenizers.WordTokenizer):
    """hfx's words and sentences as a tokenizer of datatrove."""

    def word_tokenize(self, text: str) -> list[str]:
        return split_words(text)

    def sent_tokenize(self, text: str) -> list[str]:
        return [text[start:end].strip() for start, end in self.span_tokenize(text)]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return list(pairwise([0, *sentence_ends(text), len(text)]))


def documents(count: int) -> list[str]:
    """Return documents that every family keeps, so that every rule is tried on each."""
    draw = random.Random(0)
    vocabulary = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 10))) for _ in range(20_000)]
    return [_document(draw, vocabulary) for _ in range(count)]


def _document(draw: random.Random, vocabulary: list[str]) -> str:
    lines, left = [], WORDS
    while left > 0:
        words = [draw.choice(STOPS if draw.random() < 0.4 else vocabulary) for _ in range(min(left, 30))]
        left -= len(words)
        lines.append(" ".join(words[:15]) + ", " + " ".join(words[15:]) + ". " + " ".join(words[:3]) + ".")
    return "\n".join(lines)


def seconds(work: Callable[[], Any]) -> float:
    """Return the best of three, in seconds of this process."""
    taken = []
    for _ in range(3):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--documents", type=int, default=2_000)
    texts = documents(parser.parse_args().documents)
    spacys = word_tokenizers.load_word_tokenizer
    word_tokenizers.load_word_tokenizer = lambda language: OwnSplitter(language)
    filters = _filters()
    print(f"{len(texts)} documents of {WORDS} words, documents a second and core\n")
    print("| rules | hfx | datatrove | ratio | kept |\n|---|---|---|---|---|")
    for rules in ([name] for name in filters):
        _compare(texts, rules, [filters[rules[0]]])
    _compare(texts, list(filters), list(filters.values()))
    word_tokenizers.load_word_tokenizer = spacys
    _compare(texts[: len(texts) // 10], list(filters), list(_filters().values()), "spacy")


def _filters() -> dict[str, Any]:
    return {
        "gopher": GopherQualityFilter(),
        "repetition": GopherRepetitionFilter(),
        "c4": C4QualityFilter(),
        "fineweb": FineWebQualityFilter(),
    }


def _compare(texts: list[str], rules: list[Any], filters: list[Any], splitter: Any = "regex") -> None:
    plugin = Quality(rules=rules, splitter=splitter)

    def rows() -> list[Row]:
        return [Row({"text": text}, Place("bench", "bench", 1)) for text in texts]

    def theirs() -> list[bool]:
        found = (TheirDocument(text=text, id="0") for text in texts)
        return [all(each.filter(document) is True for each in filters) for document in found]

    kept = sum(isinstance(outcome, Row) for outcome in plugin.apply(rows()))
    ours, other = len(texts) / seconds(lambda: plugin.apply(rows())), len(texts) / seconds(theirs)
    name = f"{', '.join(rules)} ({splitter})"
    print(f"| {name} | {ours:,.0f} | {other:,.0f} | {ours / other:.1f} | {kept / len(texts):.0%} |")


if __name__ == "__main__":
    main()
