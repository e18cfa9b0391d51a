"""Generated documents for `test_quality.py`: slides across each rule's limit, and a seeded random mixture."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice, product
from typing import Any

STOPS = ["the", "be", "to", "of", "and", "that", "have", "with"]


def unique_words(length: int = 6) -> Iterator[str]:
    """Yield different words of one length, none of them a stop word."""
    return ("".join(letters) for letters in product("zkrmwvea", repeat=length))


def take(count: int, length: int = 6, skip: int = 0) -> list[str]:
    return list(islice(unique_words(length), skip, skip + count))


def joined(words: list[str], length: int) -> str:
    """Return the words as one line, a last word bringing it to this length."""
    line = " ".join(words)
    assert length > len(line) + 1, (length, len(line))
    return f"{line} {'q' * (length - len(line) - 1)}"


def in_lines(words: list[str], each: int = 8, end: str = ".") -> list[str]:
    return [" ".join(words[at : at + each]) + end for at in range(0, len(words), each)]


@dataclass(frozen=True)
class Slide:
    """Documents that move across the limit of one rule in the smallest steps."""

    family: str
    reason: str
    document: Callable[[int], str]
    off: dict[str, Any]
    """The option that switches the rule off."""
    steps: range = field(default=range(40))

    def documents(self) -> list[str]:
        return [self.document(step) for step in self.steps]

    def __str__(self) -> str:
        return self.reason


# ── Gopher ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _long_words(step: int) -> str:
    return " ".join(["the", "and", *take(60, 10), "q" * (10 + step)])


def _marked(mark: str) -> Callable[[int], str]:
    return lambda step: " ".join(["the", "and", *take(88), *[mark] * step])


def _beginning(step: int) -> str:
    lines = in_lines(["the", "and", *take(158)])
    return "\n".join(f"- {line}" if at < step else line for at, line in enumerate(lines))


def _ending(step: int) -> str:
    lines = in_lines(["the", "and", *take(318)], each=16)
    return "\n".join(f"{line}..." if at < step else line for at, line in enumerate(lines))


def _gopher() -> list[Slide]:
    def slide(reason: str, document: Callable[[int], str], option: str, **more: Any) -> Slide:
        return Slide("gopher", f"gopher_{reason}", document, {f"gopher_{option}": None}, **more)

    return [
        slide("too_short", lambda step: " ".join(["the", "and", "!", *take(28 + step)]), "min_words"),
        slide("too_long", lambda step: " ".join(["the", "and", *take(step)]), "max_words",
              steps=range(99_997, 100_001)),
        slide("short_words", lambda step: " ".join(["the", "and", "that", *take(60, 3), *["go"] * step]),
              "min_word_length"),
        slide("long_words", _long_words, "max_word_length"),
        slide("hashes", _marked("#"), "max_symbols"),
        slide("ellipses", _marked("..."), "max_symbols"),
        slide("bullet_lines", _beginning, "max_bullet_lines", steps=range(21)),
        slide("ellipsis_lines", _ending, "max_ellipsis_lines", steps=range(21)),
        slide("few_alpha_words", lambda step: " ".join(["the", "and", *take(78), *["7"] * step]), "min_alpha_words"),
        slide("few_stop_words", lambda step: " ".join([*STOPS[:step], *take(60)]), "min_stop_words", steps=range(9)),
    ]  # fmt: skip


# ── Repetition ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _copies(between: str) -> Callable[[int], str]:
    return lambda step: between.join([*in_lines(take(160)), *["Aye."] * step])


def _twice(between: str) -> Callable[[int], str]:
    part = joined(take(10), 100)
    more = joined(take(10, skip=50), 100)
    return lambda step: between.join([part, part, more, joined(take(10, skip=100), 180 + step)])


def _top(n: int, share: float) -> Callable[[int], str]:
    gram = take(n, 2)
    words = [word for at in range(10) for word in [*gram, *take(1, skip=at)]]
    flip = int((3 * n - 1) * 10 / share)
    return lambda step: joined([*words, *take(5, skip=50)], flip - 20 + step)


def _again(n: int, share: float) -> Callable[[int], str]:
    grams = [take(n, skip=at * n) for at in range(4)]
    words = [word for at in range(8) for word in [*grams[at % 4], *take(1, 5, skip=at)]]
    flip = int(4 * n * 6 / share)
    return lambda step: joined(words, flip - 20 + step)


TOP = {2: 0.2, 3: 0.18, 4: 0.16}
AGAIN = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1}


def _repetition() -> list[Slide]:
    def slide(reason: str, document: Callable[[int], str], off: dict[str, Any]) -> Slide:
        options = {f"repetition_{option}": value for option, value in off.items()}
        return Slide("repetition", f"repetition_{reason}", document, options)

    return [
        slide("paragraphs", _copies("\n\n"), {"max_paragraphs": None}),
        slide("paragraph_characters", _twice("\n\n"), {"max_paragraph_characters": None}),
        slide("lines", _copies("\n"), {"max_lines": None}),
        slide("line_characters", _twice("\n"), {"max_line_characters": None}),
        *(slide(f"top_{n}_gram", _top(n, share), {"max_top": {}}) for n, share in TOP.items()),
        *(slide(f"duplicate_{n}_gram", _again(n, share), {"max_duplicate": {}}) for n, share in AGAIN.items()),
    ]


# ── C4 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _with_line(line: Callable[[int], str]) -> Callable[[int], str]:
    return lambda step: "\n".join([*in_lines(take(48)), line(step)])


def _c4() -> list[Slide]:
    def slide(reason: str, line: Callable[[int], str], option: str, off: Any = False, **more: Any) -> Slide:
        document = _with_line(line)
        return Slide("c4", f"c4_{reason}", document, {f"c4_{option}": off}, **{"steps": range(2), **more})

    return [
        Slide("c4", "c4_few_sentences", lambda step: " ".join(in_lines(take(8 * step))), {"c4_min_sentences": None},
              range(1, 9)),
        slide("long_word", lambda step: f"here is {'q' * step}.", "max_word_length", None, steps=range(996, 1004)),
        slide("citation", lambda step: f"It is said{['', ' [edit]', '[citation needed]', '[12]', '[]'][step]} so.",
              "remove_citations", steps=range(5)),
        slide("no_terminal_punct", lambda step: "It ends here" + ["", ".", "?", "!", '"', "'", "...", "…", ";"][step],
              "require_punctuation", steps=range(9)),
        slide("short_line", lambda step: " ".join(take(step + 1)) + ".", "min_line_words", None, steps=range(6)),
        slide("lorem_ipsum", lambda step: f"Lorem {['IPSUM', 'and ipsum'][step]} for us.", "drop_lorem_ipsum"),
        slide("javascript", lambda step: f"Please use {['JavaScript', 'java scripts'][step]} here.",
              "remove_javascript"),
        slide("curly_bracket", lambda step: f"Look at this {'{}'[step]} here.", "drop_curly_bracket"),
        slide("policy", lambda step: f"Our site {['uses', 'eats'][step]} Cookies.", "remove_policy"),
    ]  # fmt: skip


# ── FineWeb ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _short_lines(step: int) -> str:
    lines = [joined(take(4, skip=4 * at), 30 if at < 50 + step else 31) for at in range(100)]
    return "\n".join(line[:-1] + "." for line in lines)


def _breaks(step: int) -> str:
    return "\n".join(in_lines(take(75, 12), each=3)) + "\n" * step


def _fineweb() -> list[Slide]:
    def slide(reason: str, document: Callable[[int], str], option: str, **more: Any) -> Slide:
        return Slide("fineweb", f"fineweb_{reason}", document, {f"fineweb_{option}": None}, **more)

    ended = lambda step: "\n".join(  # noqa: E731
        line + ".。؟!;"[at % 4] * (at < step) for at, line in enumerate(in_lines(take(400), end=""))
    )
    twice = lambda step: "\n".join(["Yes, yes.", "Yes, yes.", joined(take(100), 862 + step)[:-1] + "."])  # noqa: E731
    return [
        slide("no_terminal_punct", ended, "min_punctuated_lines"),
        slide("short_lines", _short_lines, "max_short_lines"),
        slide("repeated_characters", twice, "max_repeated_characters"),
        slide("line_breaks", _breaks, "max_line_breaks"),
    ]


SLIDES = [*_gopher(), *_repetition(), *_c4(), *_fineweb()]
"""Every reason but the two of an empty text, and `c4_whitespace`, which has no limit."""


# ── The mixture ──────────────────────────────────────────────────────────────────────────────────────────────────────

VOCABULARY = [*take(400, 4), *take(300, 6), *take(60, 9), "café", "naïve", "élan", "straße", "3.14", "1,000", "x_1"]
ODD = ["2024", "#", "...", "…", "don't", "—", "--", "(so)", "“so”", "中文。", "_", "Mr. Zek", "U.S.", "[1]", "[edit]",
       "*", "1", "\t", "\u00a0", "e.g.", "a.b", "?!"]  # fmt: skip
LINES = ["Please enable JavaScript to go on.", "We use cookies on this site.", "See our Privacy Policy for more.",
         "Lorem ipsum dolor sit amet.", "if (x) { return; } or so.", "Home", "Yes.", "", " ",
         "q" * 1001 + " is long."]  # fmt: skip
ENDS = [".", ".", ".", "?", "!", '."', "", "...", "…", ":", ". ", "。", " [2]"]
BREAKS = ["\n", "\n", "\n", "\n\n", "\n\n", "\n\n\n", "\r\n", "\u2028"]


class Mixture:
    """Draws documents: each has its own rates of odd words, odd lines, repetition and broken endings."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def rate(self, most: float) -> float:
        """Draw a rate that is often nearly nothing."""
        return most * self.random.random() ** 4

    def document(self) -> str:
        draw = self.random
        if draw.random() < 0.01:
            return draw.choice(["", " ", "\n\n", "!", "!" * 70, "... " * 60, "aa", "\u00a0 \n"])
        odd, strange, again, ends = self.rate(0.6), self.rate(0.5), self.rate(0.8), self.rate(1)
        bullet, stops, mean = self.rate(1.3), draw.random() * 0.4, draw.choice([3, 8, 12, 16])
        phrase, marks = draw.choices(VOCABULARY, k=draw.randint(2, 12)), draw.choices(ODD, k=3)
        lines: list[str] = []
        for _ in range(draw.randint(1, 4 + 110 // mean)):
            if lines and draw.random() < again / 2:
                lines.append(draw.choice(lines))
            elif draw.random() < strange:
                lines.append(draw.choice(LINES))
            else:
                words = self._words(draw.randint(1, 2 * mean), marks, odd, stops)
                words += phrase if draw.random() < again else []
                line = " ".join(words) + (draw.choice(ENDS) if draw.random() < ends else ".")
                lines.append(draw.choice(["- ", "• ", "* "]) + line if draw.random() < bullet else line)
        breaks = BREAKS if draw.random() < 0.2 else draw.choice([["\n"], ["\n\n"], ["\n", "\n\n"]])
        return "".join(line + draw.choice(breaks) for line in lines)[: None if draw.random() < 0.1 else -1]

    def _words(self, count: int, marks: list[str], odd: float, stops: float) -> list[str]:
        draw = self.random
        return [
            draw.choice(marks) if draw.random() < odd else draw.choice(STOPS if draw.random() < stops else VOCABULARY)
            for _ in range(count)
        ]


@lru_cache(maxsize=1)
def mixture(count: int, seed: int = 0) -> list[str]:
    """Return documents, always the same ones."""
    drawn = Mixture(seed)
    return [drawn.document() for _ in range(count)]
