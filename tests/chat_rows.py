"""Generated rows of conversations in every accepted form, some broken in one way, with what has to become of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

FORMS = ("messages", "sharegpt", "strings", "lists", "instruction", "pair")
"""Lists of messages, ShareGPT's, prompt and completion as strings and as messages, Alpaca's, columns that are named."""


@dataclass(frozen=True)
class Generated:
    """A row, and either the answers that are learned, or the reason for which it is left out."""

    form: str
    values: dict[str, Any]
    answers: list[str]
    reason: str | None = None


def generated(random: Random, count: int) -> list[Generated]:
    """Return rows; what users say is of words with `q`, what the assistant says of words with `a`."""
    return [_row(random, number) for number in range(count)]


def _words(random: Random, kind: str, most: int = 6) -> str:
    words = [f"{kind}{random.randrange(100)}" for _ in range(random.randint(1, most))]
    return random.choice(["", "", " ", "\n"]) + random.choice([" ", "  ", "\n", ", "]).join(words)


def _row(random: Random, number: int) -> Generated:
    form = FORMS[number % len(FORMS)]
    broken = random.random() < 0.4
    if form in ("messages", "sharegpt", "lists"):
        return _of_messages(random, form, broken)
    question, answer = _words(random, "q"), _words(random, "a")
    names = {"strings": ("prompt", "completion"), "instruction": ("instruction", "output"), "pair": ("ask", "reply")}
    values: dict[str, Any] = dict(zip(names[form], (question, answer), strict=True))
    if form == "instruction" and random.random() < 0.5:
        values["input"] = random.choice(["", None, _words(random, "q")])
    if random.random() < 0.3:
        values["id"] = number
    if not broken:
        return Generated(form, values, [answer])
    column = names[form][1]
    value, reason = random.choice(
        [("", "empty_answer"), (" \n", "empty_answer"), (None, "null_content"), (7, "content_of_another_kind"),
         ("a1 " * 400, "answer_cut_away"), ("a1 <|im_end|> a2", "special_token_in_text"), ([], "no_answer")]
    )  # fmt: skip
    return Generated(form, values | {column: value}, [], reason)


def _of_messages(random: Random, form: str, broken: bool) -> Generated:
    turns: list[dict[str, Any]] = []
    answers: list[str] = []
    if random.random() < 0.3:
        turns.append({"role": "system", "content": _words(random, "q")})
    for _ in range(random.randint(1, 3)):
        answers.append(_words(random, "a"))
        turns += [{"role": "user", "content": _words(random, "q")}, {"role": "assistant", "content": answers[-1]}]
    if random.random() < 0.2 and form != "lists":
        turns.append({"role": "user", "content": _words(random, "q")})
    reason = None
    if broken:
        reason, breaks = random.choice(list(_BREAKS.items()))
        breaks(turns)
    if form == "lists":
        answers = answers[-1:]
        if reason is None or reason not in ("no_answer", "system_in_the_middle"):
            return Generated(form, {"prompt": turns[:-1], "completion": turns[-1:]}, answers, reason)
        return Generated(form, {"prompt": turns, "completion": []}, [], "no_answer")
    if form == "sharegpt":
        turns = [_sharegpt(turn) for turn in turns]
        return Generated(form, {"conversations": turns, "source": "made"}, answers, reason)
    return Generated(form, {"id": 1, "messages": turns}, answers, reason)


def _sharegpt(turn: Any) -> Any:
    if not isinstance(turn, dict):
        return turn
    names = {"user": "human", "assistant": "gpt"}
    changed = {"from": names.get(turn["role"], turn["role"])} if "role" in turn else {}
    return changed | {"value": turn["content"]}


def _last_answer(content: Any) -> Callable[[list[Any]], None]:
    def breaks(turns: list[Any]) -> None:
        at = max(at for at, turn in enumerate(turns) if turn.get("role") == "assistant")
        turns[at] = turns[at] | {"content": content}

    return breaks


def _second_system(turns: list[Any]) -> None:
    turns[:0] = [{"role": "system", "content": "q1"}]
    if turns[1]["role"] != "system":
        turns[1:1] = [{"role": "system", "content": "q2"}]


def _late_system(turns: list[Any]) -> None:
    turns[:] = [turn for turn in turns if turn["role"] != "system"]
    turns.insert(1, {"role": "system", "content": "q1"})


def _no_answer(turns: list[Any]) -> None:
    turns[:] = [turn for turn in turns if turn["role"] != "assistant"]


def _first(change: dict[str, Any]) -> Callable[[list[Any]], None]:
    def breaks(turns: list[Any]) -> None:
        turns[0] = turns[0] | change

    return breaks


def _without_role(turns: list[Any]) -> None:
    turns[0] = {"content": turns[0]["content"]}


def _text(turns: list[Any]) -> None:
    turns[0] = json.dumps(turns[0])


_BREAKS: dict[str, Callable[[list[Any]], None]] = {
    "empty_answer": _last_answer(" "),
    "null_content": _first({"content": None}),
    "content_of_another_kind": _first({"content": {"q": 1}}),
    "two_systems": _second_system,
    "system_in_the_middle": _late_system,
    "no_answer": _no_answer,
    "unknown_role": _first({"role": "narrator"}),
    "no_role": _without_role,
    "message_of_another_kind": _text,
    "special_token_in_text": _first({"content": "q1 <|im_start|>assistant\nq2"}),
}
