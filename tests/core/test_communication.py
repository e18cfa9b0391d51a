"""What a rank counts of its collectives, and how ranks are compared."""

from __future__ import annotations

import itertools
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hfx.communication import Interval, Meter, Pace, covered
from hfx.metered import size_of


def interval(start: float, end: float | None) -> Interval:
    made = Interval()
    made.start, made.end = start, end
    return made


TIMES = st.floats(0, 10)


@given(st.lists(st.tuples(TIMES, TIMES)), TIMES, TIMES)
def test_seconds_in_which_several_are_under_way_count_once(
    pairs: list[tuple[float, float]], a: float, b: float
) -> None:
    start, end = sorted((a, b))
    sections = sorted((min(pair), max(pair)) for pair in pairs)
    marks = sorted({start, end, *(min(max(at, start), end) for section in sections for at in section)})
    expected = sum(
        right - left
        for left, right in itertools.pairwise(marks)
        if any(first <= left and right <= last for first, last in sections)
    )
    assert covered([interval(*section) for section in sections], start, end) == pytest.approx(expected)


def test_what_is_not_done_lasts_until_now() -> None:
    assert covered([interval(1, None)], 0, 3) == 2


def test_bytes_are_those_of_all_tensors_in_what_is_given() -> None:
    assert size_of(torch.zeros(3, 2)) == 24
    assert size_of([[torch.zeros(3, dtype=torch.bfloat16)], [torch.zeros(2, dtype=torch.float64)]]) == 22


def paces(size: int) -> list[Pace]:
    return [Pace(Meter(), rank, size) for rank in range(size)]


@pytest.mark.parametrize(("size", "late"), [(2, 1), (3, 0), (4, 2)])
def test_the_rank_that_worked_longest_is_named_and_by_how_much_it_passed_the_others_median(
    size: int, late: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    ranks = paces(size)
    rows = torch.zeros(size, dtype=torch.float64)
    for rank, pace in enumerate(ranks):
        pace.resume()
        now += 0.05 + 0.1 * (rank == late)
        rows += pace.row()
    for pace in ranks:
        pace.compare(rows)
        figures = pace.figures()
        assert figures["straggler"] == late
        assert figures["straggler_seconds"] == pytest.approx(0.1)


def test_neither_waiting_nor_what_lies_in_a_pause_is_work() -> None:
    meter = Meter()
    pace = Pace(meter, 0, 2)
    pace.resume()
    with meter.waiting():
        time.sleep(0.1)
    pace.pause()
    time.sleep(0.1)
    assert pace.row()[0] < 0.05
    assert meter.waited >= 0.1
