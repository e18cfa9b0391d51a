from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tracked import folder_with_rows, killed_and_resumed, recorded, train

pytest.importorskip("trackio")
WORDS = ("--plugin", "trackio", "--trackio.dir", "trackio")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_with_rows(tmp_path_factory.mktemp("trackio"))


def query(folder: Path, words: str, name: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / "trackio" / "hfx.db")) as connection:
        return connection.execute(words, (name,)).fetchall()


def told(folder: Path, name: str) -> dict[str, list[tuple[int, float]]]:
    rows = query(folder, "SELECT step, metrics FROM metrics WHERE run_name = ? ORDER BY step, id", name)
    found: dict[str, list[tuple[int, float]]] = {}
    for step, metrics in rows:
        for key, value in json.loads(metrics).items():
            found.setdefault(key, []).append((step, value))
    return found


def test_every_figure_is_that_of_the_metrics_file_and_the_config_is_there(folder: Path) -> None:
    done = train(folder, "whole", *WORDS)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "run: whole\n"
    assert told(folder, "whole") == recorded(folder / "whole")
    ((config,),) = query(folder, "SELECT config FROM configs WHERE run_name = ?", "whole")
    assert json.loads(config)["run"]["batch_size"] == 4
    assert json.loads(config)["plugins"]["trackio"]["package"].startswith("hfx ")


@pytest.mark.slow
def test_a_killed_and_resumed_run_goes_on_in_its_run_with_each_step_once(folder: Path) -> None:
    killed_and_resumed(folder, "killed", *WORDS)
    found, wanted = told(folder, "killed"), recorded(folder / "killed")
    assert {name: [step for step, _ in points] for name, points in found.items()} == {
        name: [step for step, _ in points] for name, points in wanted.items()
    }
    for name in ("loss", "lr", "grad_norm", "tokens", "eval_loss"):
        assert found[name] == wanted[name]
    assert len(query(folder, "SELECT DISTINCT run_id FROM metrics WHERE run_name = ?", "killed")) == 1


@pytest.mark.slow
def test_two_runs_of_one_name_stay_two(folder: Path) -> None:
    for output in ("a/run", "b/run"):
        done = train(folder, output, *WORDS, "--steps", "1")
        assert done.returncode == 0, done.stderr
    assert len(query(folder, "SELECT DISTINCT run_id FROM metrics WHERE run_name = ?", "run")) == 2
