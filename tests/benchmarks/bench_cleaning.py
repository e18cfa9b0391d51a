"""Rows a second of the row-wise cleaning steps on generated text, as a share of a step that does nothing.

Run `python tests/benchmarks/bench_cleaning.py [--rows 2000]`. Steps run as in preparing: in chunks of 1,000 rows, on
one core.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections.abc import Callable

from hfx import Drop, Place, Plugin, Row
from hfx_plugins.cleaning.html import Html
from hfx_plugins.cleaning.language import Language
from hfx_plugins.cleaning.normalize import Normalize
from hfx_plugins.cleaning.pii import Pii

CHUNK = 1_000
_COMMON = (
    "the of and to in is that it was for on are with as his they at be this from have or by one had not but what all "
    "were when we there can an your which their said if do will each about how up out them then she many some so these "
    "would other into has more her two like him see time could no make than first been its who now people my made over"
)
WORDS = _COMMON.split()


class Nothing(Plugin):
    """Pass every row on, having looked at its strings."""

    def apply(self, rows: list[Row]) -> list[Row | Drop]:
        """Return the rows."""
        return [row for row in rows if row.texts() is not None]


def sentences(chance: random.Random, words: int) -> str:
    """Return a text of sentences of ten words."""
    drawn = chance.choices(WORDS, k=words)
    return " ".join(word + "." * (number % 10 == 9) for number, word in enumerate(drawn))


def page(chance: random.Random, words: int) -> str:
    """Return a page with navigation, scripts, and the words in paragraphs of fifty."""
    menu = "".join(f"<li><a href='/{word}'>{word}</a></li>" for word in chance.choices(WORDS, k=20))
    body = "".join(f"<p>{sentences(chance, 50)} <b>so</b> &amp; <a href='x'>on</a></p>" for _ in range(words // 50))
    return f"<html><head><title>t</title></head><body><nav><ul>{menu}</ul></nav><div>{body}</div><script>x()</script>"


def accented(chance: random.Random, words: int) -> str:
    """Return a text that is not ASCII and has nothing to mend."""
    return sentences(chance, words).replace("e", "é")


def numbered(chance: random.Random, words: int) -> str:
    """Return a text with a number that is nobody's."""
    return f"{sentences(chance, words)} {chance.randrange(10_000)}"


def personal(chance: random.Random, words: int) -> str:
    """Return a text with an address, a number and a card in it."""
    return (
        f"{sentences(chance, words)} jo{chance.random()}@example.org, +49 30 901820, 4111 1111 1111 1111, 93.184.216.34"
    )


CASES: list[tuple[str, Plugin, Callable[[random.Random, int], str]]] = [
    ("nothing, text", Nothing(), sentences),
    ("nothing, pages", Nothing(), page),
    ("normalize, ASCII", Normalize(), sentences),
    ("normalize, accents", Normalize(), accented),
    ("normalize, accents, no ftfy", Normalize(encoding=False), accented),
    ("language", Language(keep=["en"]), sentences),
    ("pii, no digits", Pii(), sentences),
    ("pii, digits but none in it", Pii(), numbered),
    ("pii, four in each", Pii(), personal),
    ("html, no tags", Html(), sentences),
    ("html", Html(), page),
    ("html, main text", Html(main_text=True), page),
]


def seconds(step: Plugin, rows: list[Row]) -> float:
    """Return the best of three."""
    step.apply(copy.deepcopy(rows[:2]))  # models are loaded before the clock runs
    best = float("inf")
    for _ in range(3):
        chunks = [copy.deepcopy(rows[at : at + CHUNK]) for at in range(0, len(rows), CHUNK)]
        start = time.perf_counter()
        for chunk in chunks:
            step.apply(chunk)
        best = min(best, time.perf_counter() - start)
    return best


def main(count: int, words: int = 300) -> None:
    """Print a line for each case."""
    plain = 0.0
    print(f"{count} rows of {words} words\n{'step':<30}{'rows/s':>12}{'MB/s':>10}{'times slower':>15}")
    for name, step, make in CASES:
        chance = random.Random(0)
        rows = [Row({"text": make(chance, words)}, Place("made", "made", number)) for number in range(count)]
        taken = seconds(step, rows)
        plain = plain or taken
        size = sum(len(row.values["text"]) for row in rows) / 1e6
        print(f"{name:<30}{count / taken:>12,.0f}{size / taken:>10.1f}{taken / plain:>15.1f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=2_000)
    main(parser.parse_args().rows)
