"""From a source to rows: stages that are cached apart, whatever happened written down, on any number of processes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hfx import BadRow, Drop, Drops, Place, Row, Rows
from hfx.errors import DataError
from hfx.outcomes import SHOWN, outcomes_of
from hfx.reading import Reading
from hfx.rows import RowSet
from hfx.spread import Processes
from hfx.stages import prepare_rows


@dataclass
class Counted:
    """Rows with a number each, the last ones equal to the first; counts how often it was read."""

    rows: int = 3_000
    bad: tuple[int, ...] = ()
    read_rows: int = 0
    indexed: bool = True

    def fingerprint(self) -> str:
        return f"{self.rows}/{self.bad}"

    def read(self, start: int = 0) -> Iterator[Row | BadRow]:
        for number in range(start, self.rows):
            self.read_rows += 1
            place = Place("toy", "toy.txt", number + 1)
            if number in self.bad:
                yield BadRow(place, "broken")
            else:
                yield Row({"text": f"row {number % (self.rows - 100)}", "more": [f"{number}"]}, place)


@dataclass
class Odd:
    """Drops every third row and shouts every fifth."""

    word: str = "odd"
    version: int = 1
    name: str = "odd"

    def options(self) -> dict[str, Any]:
        return {"word": self.word}

    def apply(self, rows: list[Row]) -> list[Row | Drop]:
        found: list[Row | Drop] = []
        for row in rows:
            if row.number % 3 == 0:
                found.append(Drop("third"))
                continue
            if row.number % 5 == 0:
                row.values["more"][0] = self.word
                row.reasons.append("odd.fifth")
            found.append(row)
        return found


@dataclass
class Unique:
    """Drops rows whose text came before; counts how often it was asked."""

    asked: list[int] = field(default_factory=list)
    version: int = 1
    name: str = "unique"

    def options(self) -> dict[str, Any]:
        return {}

    def drops(self, rows: Iterable[Row]) -> Mapping[int, str]:
        self.asked.append(1)
        seen: set[str] = set()
        found: dict[int, str] = {}
        for row in rows:
            if row.values["text"] in seen:
                found[row.number] = "again"
            seen.add(row.values["text"])
        return Drops(found, {"distinct": len(seen)})


def content(rows: RowSet) -> list[Any]:
    return [(row.number, str(row.place), row.values) for row in rows]


def test_every_row_is_kept_or_accounted_for(tmp_path: Path) -> None:
    rows = prepare_rows(Rows(Counted(bad=(7, 8))).then(Odd()).then(Unique()), tmp_path, Reading(max_bad_rows=2))

    happened = list(outcomes_of(rows))
    gone = {line["number"] for line in happened if line["dropped"]}
    assert gone | {row.number for row in rows} | {7, 8} == set(range(3_000))
    assert not gone & {row.number for row in rows}
    assert Counter(line["reason"] for line in happened if line["dropped"]) == rows.report.dropped
    assert Counter(line["reason"] for line in happened if not line["dropped"]) == rows.report.changed
    assert (rows.report.read, rows.report.bad, rows.report.kept) == (3_000, 2, len(rows))
    assert rows.report.facts == {"unique": {"distinct": len(rows)}}
    assert all(line["file"] == "toy.txt" and line["line"] == line["number"] + 1 for line in happened)


def test_what_is_shown_of_a_row_is_what_it_was_before(tmp_path: Path) -> None:
    rows = prepare_rows(Rows(Counted()).then(Odd()), tmp_path, Reading())

    shown = [line for line in outcomes_of(rows) if line["before"]]
    assert Counter(line["reason"] for line in shown) == {"odd.third": SHOWN, "odd.fifth": SHOWN}
    assert all(json.loads(line["before"])["more"] == [str(line["number"])] for line in shown)


def test_several_processes_give_the_same_rows(tmp_path: Path) -> None:
    one, two = (
        prepare_rows(Rows(Counted()).then(Odd()).then(Unique()), tmp_path / str(num_proc), Reading(num_proc=num_proc))
        for num_proc in (1, 2)
    )
    assert content(one) == content(two)
    assert list(outcomes_of(one)) == list(outcomes_of(two))
    assert one.fingerprint == two.fingerprint


@dataclass
class Licensed:
    """Marks two rows of three with what it takes for their licence."""

    version: int = 1
    name: str = "licensed"

    def options(self) -> dict[str, Any]:
        return {}

    def apply(self, rows: list[Row]) -> list[Row | Drop]:
        for row in rows:
            if row.number % 3:
                row.marks["licence"] = "mit" if row.number % 2 else "gpl"
        return list(rows)


@pytest.mark.parametrize("executor", [None, Processes(1), Processes(2)])
def test_rows_that_are_left_are_counted_by_their_marks_whatever_comes_after(
    tmp_path: Path, executor: Processes | None
) -> None:
    stages = [Rows(Counted()).then(Licensed())]
    stages += [stages[0].then(Odd()), stages[0].then(Odd()).then(Unique()).then(Odd("again"))]
    for rows in stages:
        found = prepare_rows(rows.on(executor) if executor else rows, tmp_path, Reading())
        kept = {row.number: row.marks for row in found}
        licences = {number: "mit" if number % 2 else "gpl" for number in kept if number % 3}
        assert kept == {number: {"licence": licences[number]} if number in licences else {} for number in kept}
        assert found.marks() == {"licence": Counter(licences.values())}
    train, held = found.split(0.1)
    assert train.marks()["licence"] + held.marks()["licence"] == found.marks()["licence"]


def test_rows_without_a_mark_are_not_counted_and_nor_are_no_rows(tmp_path: Path) -> None:
    rows = prepare_rows(Rows(Counted()), tmp_path, Reading())
    assert rows.marks() == {}
    assert rows.where(rows.numbers() < 0, "none").marks() == {}


def test_only_what_depends_on_a_change_is_made_anew(tmp_path: Path) -> None:
    source, unique = Counted(), Unique()
    prepare_rows(Rows(source).then(unique).then(Odd()), tmp_path, Reading())
    assert (source.read_rows, len(unique.asked)) == (3_000, 1)

    louder = prepare_rows(Rows(source).then(unique).then(Odd(word="loud")), tmp_path, Reading())
    assert (source.read_rows, len(unique.asked)) == (3_000, 1)
    assert any(row.values["more"] == ["loud"] for row in louder)

    prepare_rows(Rows(source).then(Odd()).then(unique), tmp_path, Reading())
    assert (source.read_rows, len(unique.asked)) == (6_000, 2)


def test_a_newer_version_of_a_step_is_run_again(tmp_path: Path) -> None:
    source = Counted()
    for version in (1, 1, 2):
        prepare_rows(Rows(source).then(Odd(version=version)), tmp_path, Reading())
    assert source.read_rows == 6_000


def test_dropping_never_renumbers(tmp_path: Path) -> None:
    rows = prepare_rows(Rows(Counted()).then(Odd()).then(Unique()), tmp_path, Reading())
    assert all(row.place.row == row.number + 1 for row in rows)


def test_a_step_that_loses_a_row_is_named(tmp_path: Path) -> None:
    class Losing(Odd):
        def apply(self, rows: list[Row]) -> list[Row | Drop]:
            return list(rows[:-1])

    with pytest.raises(DataError, match="'odd' returned 999 outcomes for 1000 rows"):
        prepare_rows(Rows(Counted()).then(Losing()), tmp_path, Reading())
    assert not list((tmp_path / "rows").glob("*.partial"))


def test_fewer_bad_rows_allowed_than_there_are_is_an_error_also_from_the_cache(tmp_path: Path) -> None:
    rows = Rows(Counted(bad=(4, 5)))
    with pytest.raises(DataError, match=r"toy\.txt:5"):
        prepare_rows(rows, tmp_path, Reading())
    prepare_rows(rows, tmp_path, Reading(max_bad_rows=2))
    with pytest.raises(DataError, match="--max-bad-rows 2"):
        prepare_rows(rows, tmp_path, Reading(max_bad_rows=1))
