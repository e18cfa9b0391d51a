"""Steps over rows that are wrong, each around the source."""

from __future__ import annotations

import random
from collections.abc import Generator
from typing import Any

from hfx import Drop, Plugin, Row, Rows, hookimpl


class _Wrapper(Plugin):
    @hookimpl(wrapper=True)
    def hfx_source(self) -> Generator[None, Rows, Rows]:
        rows = yield
        return rows.then(self)


class SilentStep(_Wrapper):
    """Leaves rows out without a word."""

    def apply(self, rows: list[Row]) -> list[Any]:
        return [row for row in rows if row.number % 5]


class ChunkStep(_Wrapper):
    """Drops by the place in a chunk."""

    def apply(self, rows: list[Row]) -> list[Any]:
        return [Drop("fifth") if place % 5 == 4 else row for place, row in enumerate(rows)]


class QuietStep(_Wrapper):
    """Changes rows and gives no reason."""

    def apply(self, rows: list[Row]) -> list[Any]:
        for row in rows:
            for text in row.texts(["text"]):
                text.value = text.value.upper()
        return rows


class ChanceStep(_Wrapper):
    """Drops by chance."""

    def apply(self, rows: list[Row]) -> list[Any]:
        return [Drop("chance") if random.random() < 0.5 else row for row in rows]


class SortingStep(_Wrapper):
    """Returns the rows in another order."""

    def apply(self, rows: list[Row]) -> list[Any]:
        return sorted(rows, key=lambda row: row.values["text"])


class GreedyStep(_Wrapper):
    """Drops everything."""

    def apply(self, rows: list[Row]) -> list[Any]:
        return [Drop("all") for _ in rows]


class TwiceReadStep(_Wrapper):
    """Drops rows that come twice, and reads rows twice that can be read once."""

    def drops(self, rows: Any) -> dict[int, str]:
        first: dict[str, int] = {}
        for row in rows:
            first.setdefault(row.values["text"], row.number)
        return {row.number: "repeated" for row in rows if first[row.values["text"]] != row.number}


class ForgottenStep(Plugin):
    """Appends nothing."""

    @hookimpl(wrapper=True)
    def hfx_source(self) -> Generator[None, Rows, Rows]:
        rows = yield
        rows.then(self)
        return rows


_ALL_STEPS = {
    "appends a step to the rows",
    "its steps are named and versioned",
    "every row has one outcome",
    "the same rows have the same outcomes",
    "outcomes do not depend on chunks",
    "a changed row says why",
    "a run gets the rows that it keeps",
}
WRONG = {
    SilentStep: {
        "every row has one outcome",
        "the same rows have the same outcomes",
        "outcomes do not depend on chunks",
        "a changed row says why",
        "a run gets the rows that it keeps",
    },
    ChunkStep: {"outcomes do not depend on chunks"},
    QuietStep: {"a changed row says why"},
    ChanceStep: {
        "the same rows have the same outcomes",
        "outcomes do not depend on chunks",
        "a run gets the rows that it keeps",
    },
    SortingStep: {
        "every row has one outcome",
        "outcomes do not depend on chunks",
        "a changed row says why",
    },
    GreedyStep: {"a run gets the rows that it keeps"},
    TwiceReadStep: {"outcomes do not depend on chunks"},
    ForgottenStep: _ALL_STEPS,
}


class CleaningStep(_Wrapper):
    """Right: cuts long texts and drops short ones."""

    most: int = 60
    """Characters kept."""

    def apply(self, rows: list[Row]) -> list[Any]:
        return [self._clean(row) for row in rows]

    def _clean(self, row: Row) -> Any:
        if len(row.values["text"]) < 15:
            return Drop("short")
        if len(row.values["text"]) > self.most:
            row.values["text"] = row.values["text"][: self.most]
            row.reasons.append("cleaning.cut")
        return row


class RepeatedRows(_Wrapper):
    """Right: drops rows whose text came before."""

    def drops(self, rows: Any) -> dict[int, str]:
        seen: set[str] = set()
        found: dict[int, str] = {}
        for row in rows:
            if row.values["text"] in seen:
                found[row.number] = "repeated"
            seen.add(row.values["text"])
        return found


RIGHT = (CleaningStep, RepeatedRows)
