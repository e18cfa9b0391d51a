from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfx.cli.curves import means, smoothed, stretches, thinned
from hfx.figures import Follower, evaluations, last_steps, line_of, read_figures
from hfx.record import Record
from run_records import step_line, steps, write_run

LOSSES = st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.nan), st.just(math.inf)), min_size=1, max_size=400)


def written(folder: Path, lines: list[dict[str, Any]]) -> Path:
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return folder


def test_steps_evaluations_and_events_are_told_apart(tmp_path: Path) -> None:
    event = {"step": 2, "event": "spike", "reached": 9.0, "loss": 1}
    written(tmp_path, [step_line(1, 3.0), {"step": 1, "eval_loss": 3.1}, event, step_line(2, math.nan)])

    found = read_figures(tmp_path)
    assert found.steps == 2
    assert list(found["step"]) == [1, 2]
    assert math.isnan(found["loss"][1])
    assert found.evaluations == [{"step": 1, "eval_loss": 3.1}]
    assert found.events == [event]


def test_a_figure_that_only_some_steps_have_is_nan_in_the_others(tmp_path: Path) -> None:
    written(tmp_path, [step_line(1, 3.0), step_line(2, 2.0, mfu=0.4), step_line(3, 1.0), step_line(4, 1.0, mfu=0.5)])

    np.testing.assert_array_equal(read_figures(tmp_path)["mfu"], [math.nan, 0.4, math.nan, 0.5])
    assert len(read_figures(tmp_path)["unknown"]) == 4


def test_a_torn_last_line_is_left_out_and_a_damaged_one_counted(tmp_path: Path) -> None:
    written(tmp_path, [step_line(1, 3.0)])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo\n[1, 2]\n{"loss": 1}\n{"step": "x"}\n\n' + json.dumps(step_line(3, 2.0)) + "\n")
        file.write('{"step": 4, "loss": 1.')

    found = read_figures(tmp_path)
    assert list(found["step"]) == [1, 3]
    assert found.damaged == 4


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_line_makes_the_reader_fail(text: bytes) -> None:
    found = line_of(text)
    assert found is None or math.isfinite(float(found["step"]))


@pytest.mark.parametrize(
    "text",
    ['{"step": Infinity}', '{"step": NaN}', '{"step": null}', '{"step": "1"}', '{"step": true}', "[" * 100_000, "null"],
)
def test_lines_without_a_step_are_no_lines(text: str) -> None:
    assert line_of(text) is None


def test_the_end_and_the_evaluations_are_found_without_reading_all(tmp_path: Path) -> None:
    lines = [step_line(step, 1 / step) for step in range(1, 2_000)]
    lines.insert(700, {"step": 700, "eval_loss": 2.5})
    write_run(tmp_path / "run", lines)

    assert last_steps(tmp_path / "run")[-1] == lines[-1]
    assert evaluations(tmp_path / "run") == [{"step": 700, "eval_loss": 2.5}]


def test_a_run_that_recorded_nothing_has_no_steps(tmp_path: Path) -> None:
    assert (last_steps(tmp_path), evaluations(tmp_path), read_figures(tmp_path).steps) == ([], [], 0)
    (tmp_path / "metrics.jsonl").touch()
    assert (last_steps(tmp_path), evaluations(tmp_path), read_figures(tmp_path).steps) == ([], [], 0)


# ── following ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_follower_gets_each_line_once_and_waits_for_the_end_of_one(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    assert follower.read() == (False, [])
    written(tmp_path, list(steps(3)))
    assert [line["step"] for line in follower.read()[1]] == [1, 2, 3]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        text = json.dumps(step_line(4, 1.0)) + "\n"
        file.write(text[:40])
        file.flush()
        assert follower.read() == (False, [])
        file.write(text[40:])
    assert [line["step"] for line in follower.read()[1]] == [4]


def test_a_follower_notices_a_cut_though_the_file_grew_past_its_place_again(tmp_path: Path) -> None:
    written(tmp_path, list(steps(10)))
    follower = Follower(tmp_path)
    follower.read()
    Record(tmp_path / "metrics.jsonl").cut(4)
    written(tmp_path, list(steps(30, seed=1, start=5)))

    cut, lines = follower.read()
    assert cut
    assert [line["step"] for line in lines] == list(range(1, 35))


@settings(deadline=None, max_examples=40)  # each cut waits for the disk
@given(st.lists(st.one_of(st.integers(1, 5), st.integers(-8, -1)), max_size=20))
def test_a_follower_knows_what_the_file_holds_whatever_happens_to_it(changes: list[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        follower, known, step = Follower(folder), [], 0
        for seed, change in enumerate(changes):
            if change > 0:
                written(folder, list(steps(change, seed=seed, start=step + 1)))
                step += change
            else:
                step = max(0, step + change)
                Record(folder / "metrics.jsonl").cut(step)
            cut, lines = follower.read()
            known = lines if cut else known + lines
        path = folder / "metrics.jsonl"
        assert known == [json.loads(line) for line in (path.read_text().splitlines() if path.exists() else [])]


# ── curves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(deadline=None)
@given(LOSSES, st.integers(4, 60))
def test_a_thinned_curve_is_short_and_keeps_its_extremes_and_ends(losses: list[float], most: int) -> None:
    values = np.array(losses)
    places = thinned(values, most)

    assert len(places) <= most
    assert (np.diff(places) > 0).all()
    assert places[0] == 0
    assert places[-1] == len(values) - 1
    finite = values[np.isfinite(values)]
    if len(finite):
        kept = values[places]
        kept = kept[np.isfinite(kept)]
        assert kept.min() == finite.min()
        assert kept.max() == finite.max()


def test_a_gap_longer_than_a_stretch_stays_one() -> None:
    values = np.ones(1_000)
    values[300:600] = math.nan
    assert np.isnan(values[thinned(values, 40)]).any()


@settings(deadline=None)
@given(LOSSES, st.floats(1, 50))
def test_an_average_stays_between_the_values_and_has_their_gaps(losses: list[float], span: float) -> None:
    values = np.array(losses)
    average = smoothed(values, span)
    finite = np.isfinite(values)

    np.testing.assert_array_equal(np.isfinite(average), finite)
    if finite.any():
        slack = 1e-9 * max(1.0, np.abs(values[finite]).max())
        assert (average[finite] >= values[finite].min() - slack).all()
        assert (average[finite] <= values[finite].max() + slack).all()


def test_an_average_of_a_constant_is_that_constant_from_its_first_value_on() -> None:
    np.testing.assert_allclose(smoothed(np.full(50, 3.0), 20), 3.0)


@settings(deadline=None)
@given(LOSSES, st.integers(1, 50))
def test_means_are_few_and_finite_where_a_value_is(losses: list[float], most: int) -> None:
    found = means(np.array(losses), most)
    assert len(found) <= most
    assert np.isfinite(found).any() == np.isfinite(losses).any()


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=60))
def test_stretches_are_where_the_mask_is_true(mask: list[bool]) -> None:
    again = np.zeros(len(mask), dtype=bool)
    for first, last in stretches(np.array(mask, dtype=bool)):
        again[first : last + 1] = True
    np.testing.assert_array_equal(again, mask)
