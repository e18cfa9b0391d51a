"""Sources that are wrong."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from hfx import Place, Rows, hookimpl
from hfx_plugins.sources.files import Files


@dataclass
class _Spoilt:
    inner: Any
    indexed: Any = True

    def fingerprint(self) -> str:
        return self.inner.fingerprint()

    def all(self) -> Iterator[Any]:
        return self.inner.read()

    def read(self, start: int = 0) -> Iterator[Any]:
        yield from islice(self.all(), start, None)


class _Repeating(_Spoilt):
    def all(self) -> Iterator[Any]:
        rows = list(self.inner.read())
        yield from [*rows[:3], rows[2], *rows[3:]]


class RepeatingSource(Files):
    """Repeats a row."""

    @hookimpl
    def hfx_source(self, split: str, run: Any) -> Rows:
        return Rows(_Repeating(super().hfx_source(split, run).source))


class _Renaming(_Spoilt):
    def all(self) -> Iterator[Any]:
        rows = list(self.inner.read())
        if len(rows) > 5:
            rows[5].values = dict(rows[4].values)
        yield from rows


class RenamingSource(Files):
    """Repeats a row in the place of another."""

    @hookimpl
    def hfx_source(self, split: str, run: Any) -> Rows:
        return Rows(_Renaming(super().hfx_source(split, run).source))


class _Beginning(_Spoilt):
    def read(self, start: int = 0) -> Iterator[Any]:
        yield from self.all()


class BeginningSource(Files):
    """Begins at the first row, whichever it is asked for."""

    @hookimpl
    def hfx_source(self, split: str, run: Any) -> Rows:
        return Rows(_Beginning(super().hfx_source(split, run).source))


class _Shuffled(_Spoilt):
    def all(self) -> Iterator[Any]:
        rows = list(self.inner.read())
        random.shuffle(rows)
        yield from rows


class ShufflingSource(Files):
    """Yields the rows in another order each time."""

    @hookimpl
    def hfx_source(self, split: str, run: Any) -> Rows:
        return Rows(_Shuffled(super().hfx_source(split, run).source))


class _Constant(_Spoilt):
    def fingerprint(self) -> str:
        return "v1"


class ConstantSource(Files):
    """Has the same fingerprint whatever the data is."""

    @hookimpl
    def hfx_source(self, split: str, run: Any) -> Rows:
        return Rows(_Constant(super().hfx_source(split, run).source))


class _Fickle(_Spoilt):
    def fingerprint(self) -> str:
        return f"{self.inner.fingerprint()}/{random.random()}"


class FickleSource(Files):
    """Has another fingerprint each time."""

    @hookimpl
    def hfx_source(self, split: str, run: Any) -> Rows:
        return Rows(_Fickle(super().hfx_source(split, run).source))


class TrainingSource(Files):
    """Yields the training rows for evaluation too."""

    @hookimpl
    def hfx_source(self, run: Any) -> Rows:
        return super().hfx_source("train", run)


class _Nowhere(_Spoilt):
    def all(self) -> Iterator[Any]:
        for row in self.inner.read():
            row.place = Place("data", "data", 1)
            yield row


class NowhereSource(Files):
    """Says of every row that it came from the same place."""

    @hookimpl
    def hfx_source(self, split: str, run: Any) -> Rows:
        return Rows(_Nowhere(super().hfx_source(split, run).source))


class UnindexedSource(Files):
    """Does not say whether it has an end."""

    @hookimpl
    def hfx_source(self, split: str, run: Any) -> Rows:
        return Rows(_Spoilt(super().hfx_source(split, run).source, indexed=None))


class _Bare(_Spoilt):
    def all(self) -> Iterator[Any]:
        for row in self.inner.read():
            row.values = dict(enumerate(row.values.values()))
            yield row


class BareSource(Files):
    """Numbers its columns."""

    @hookimpl
    def hfx_source(self, split: str, run: Any) -> Rows:
        return Rows(_Bare(super().hfx_source(split, run).source))


WRONG = {
    UnindexedSource: {"says whether it is indexed"},
    BareSource: {"yields rows whose values are json", "resumes at every step", "is the same on any number of ranks"},
    RepeatingSource: {"no row comes twice"},
    RenamingSource: {"no row comes twice"},
    BeginningSource: {"reading from a row skips those before it"},
    ShufflingSource: {"reading twice yields the same", "reading from a row skips those before it"},
    ConstantSource: {"other data is another fingerprint"},
    FickleSource: {"its fingerprint is stable"},
    TrainingSource: {"evaluation rows are those of eval data"},
    NowhereSource: {"no row comes twice"},
}
