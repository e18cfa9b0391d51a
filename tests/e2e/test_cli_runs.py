"""`hfx runs`: what became of the runs in a folder."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from command_line import hfx, imported_by
from run_records import ended, step_line, steps, write_run
from seen_runs import training


def listed(folder: Path, *words: str) -> dict[str, dict[str, Any]]:
    done = hfx("runs", str(folder), "--json", *words)
    assert done.returncode == 0, done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)}


def table(folder: Path, *words: str) -> list[list[str]]:
    done = hfx("runs", str(folder), *words)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def test_how_real_runs_ended_is_told(seen: Path) -> None:
    rows = listed(seen / "runs")

    assert {name: row["status"] for name, row in rows.items()} == {
        "done": "finished", "resumed": "stopped", "stopped": "stopped", "killed": "killed", "diverged": "failed",
    }  # fmt: skip
    assert rows["stopped"]["why"] == "SIGTERM"
    assert rows["diverged"]["why"].startswith("DivergedError: ")
    done = rows["done"]
    assert (done["step"], done["total_steps"], done["problems"]) == (6, 6, [])
    lines = [json.loads(line) for line in (seen / "runs" / "done" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["eval_loss"] for line in lines if "eval_loss" in line]
    assert (done["eval_loss"], done["best_eval_loss"]) == (losses[-1], min(losses))
    assert done["loss"] == [line["loss"] for line in lines if "loss" in line][-1]
    assert done["tokens_per_second"] > 0


def test_a_run_that_goes_on_is_running(seen: Path) -> None:
    with training(seen, "alive/now"):
        assert listed(seen / "runs")["alive/now"]["status"] == "running"
    assert listed(seen / "runs")["alive/now"]["status"] == "killed"
    shutil.rmtree(seen / "runs" / "alive")


def test_a_resumed_run_keeps_when_it_began_and_where_its_values_came_from(seen: Path) -> None:
    status = json.loads((seen / "runs" / "resumed" / "status.json").read_text())
    assert status["starts"] == 2
    assert status["begun"] < status["started"]
    [again] = status["resumed"]
    assert (again["at"], again["ranks"]) == (status["started"], 1)
    assert again["step"] > 0
    assert again["before"] is None  # it was killed
    assert status["origins"]["run.save_every"] == "--save-every"
    assert status["origins"]["bpe.vocab_size"] == "--bpe.vocab_size"
    assert "adamw.lr" not in status["origins"]


def test_only_what_differs_stands_below_the_table(seen: Path) -> None:
    lines = table(seen / "runs", "--sort", "name")
    at = lines.index([])
    assert [line[0] for line in lines[:at]] == ["NAME", "diverged", "done", "killed", "resumed", "stopped"]
    names = {line[0] for line in lines[at + 1 :]} | set(lines[at + 1])
    assert {"steps", "seed", "save_every", "max_grad_norm", "sgd.lr"} <= names
    assert not {"batch_size", "output", "scratch.layers", "sgd.momentum"} & names


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Three runs without training: their losses, evaluations and beginnings are in different orders."""
    for at, (name, loss, evaluated) in enumerate([("a", 2.0, 1.5), ("b", 1.0, math.nan), ("c", 3.0, 1.0)]):
        status = ended("finished", 3) | {"begun": f"2026-01-0{at + 1}T00:00:00+00:00"}
        lines = [*steps(2), step_line(3, loss), {"step": 3, "eval_loss": evaluated}]
        write_run(tmp_path / name, lines, lr=at + 1, status=status)
    return tmp_path


@pytest.mark.parametrize(("sort", "order"), [("name", "abc"), ("loss", "bac"), ("eval", "cab"), ("begun", "cba")])
def test_runs_are_sorted_by_what_is_asked_for(sort: str, order: str, three: Path) -> None:
    assert "".join(listed(three, "--sort", sort)) == order
    assert "".join(line[0] for line in table(three, "--sort", sort)[1:4]) == order


def test_json_is_json_where_a_loss_is_no_number(three: Path) -> None:
    done = hfx("runs", str(three), "--json")
    rows = json.loads(done.stdout, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert {row["name"]: row["finite"] for row in rows} == {"a": True, "b": False, "c": True}
    assert {row["name"]: row["differs"] for row in rows}["b"] == {"adamw.lr": 2}
    assert "nan" in hfx("runs", str(three)).stdout


def test_a_damaged_run_is_said_to_be_damaged_in_its_row(three: Path) -> None:
    (three / "a" / "run.yaml").write_text("plugins: [")
    (three / "b" / "status.json").write_text("{")
    (three / "c" / "metrics.jsonl").write_bytes(b"\x00\xff{\n")
    rows = listed(three)
    assert "is not YAML" in rows["a"]["problems"][0]
    assert "'status.json' is damaged" in rows["b"]["problems"][0]
    assert rows["c"]["step"] == 3
    [remark] = [line for line in hfx("runs", str(three)).stdout.splitlines() if line.startswith("a ")]
    assert "is not YAML" in remark


def test_a_file_that_cannot_be_read_stops_no_other_row(three: Path) -> None:
    (three / "a" / "metrics.jsonl").unlink()
    (three / "a" / "metrics.jsonl").mkdir()
    rows = listed(three)
    assert set(rows) == {"a", "b", "c"}
    assert rows["a"]["problems"]


def test_a_run_killed_before_its_first_step_has_a_row(tmp_path: Path) -> None:
    write_run(tmp_path / "early", [], status=ended("finished", 0) | {"ended": None})
    assert listed(tmp_path)["early"] | {"begun": None, "path": None, "differs": None} == {
        "name": "early", "path": None, "status": "killed", "why": "it ended without a word", "step": 0,
        "total_steps": 100, "loss": None, "eval_loss": None, "best_eval_loss": None, "finite": True,
        "tokens_per_second": None, "begun": None, "problems": [], "differs": None,
    }  # fmt: skip


def test_a_folder_without_runs_and_one_that_is_not_there_say_so(tmp_path: Path) -> None:
    empty = hfx("runs", str(tmp_path))
    assert (empty.returncode, empty.stdout) == (0, "")
    assert "no run in" in empty.stderr
    missing = hfx("runs", cwd=tmp_path)
    assert missing.returncode == 2
    assert missing.stderr == "hfx: there is no folder 'runs'; name the one that holds your runs: 'hfx runs FOLDER'\n"


def test_nothing_heavy_is_imported(three: Path) -> None:
    assert {"torch", "transformers", "pydantic", "numpy", "pyarrow"}.isdisjoint(imported_by("runs", str(three)))


def test_forty_long_runs_are_listed_in_a_moment(tmp_path: Path) -> None:
    write_run(tmp_path / "run-0", steps(20_000), status=ended("finished", 20_000))
    for number in range(1, 40):
        shutil.copytree(tmp_path / "run-0", tmp_path / f"run-{number}", copy_function=os.link)
    began = time.perf_counter()
    assert len(listed(tmp_path)) == 40
    assert time.perf_counter() - began < 4
