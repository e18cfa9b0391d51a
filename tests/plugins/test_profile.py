from __future__ import annotations

import gzip
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hfx import World
from hfx.testing.bench import Bench
from hfx.testing.training import trained
from hfx_plugins.tracking.profile import Profile
from tracked import folder_with_rows, lines, train, train_until

WORDS = ("--plugin", "profile")
PRODUCTS = {"aten::mm", "aten::addmm"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_with_rows(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def plain(folder: Path) -> Path:
    done = train(folder, "plain")
    assert done.returncode == 0, done.stderr
    return folder / "plain"


def trace(path: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return events


def steps_in(path: Path) -> list[int]:
    marks = {e["name"] for e in trace(path) if str(e.get("name")).startswith("ProfilerStep#")}
    return sorted(int(name.removeprefix("ProfilerStep#")) for name in marks)


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "profile").iterdir())


def same_weights(one: Path, other: Path) -> bool:
    first, second = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_steps_of_the_window_are_recorded_and_what_is_trained_is_the_same_to_the_bit(
    folder: Path, plain: Path
) -> None:
    done = train(folder, "window", *WORDS, "--profile.memory", "true", "--profile.shapes", "true")
    assert done.returncode == 0, done.stderr
    run = folder / "window"
    assert names(run) == ["steps-3-5-rank-0.json.gz", "steps-3-5-rank-0.txt"]
    where = "window/profile/steps-3-5-rank-0.json.gz"
    assert f"profile of steps 3 to 5: '{where}' (for https://ui.perfetto.dev)" in done.stderr
    events = trace(folder / where)
    assert {event.get("name") for event in events} & PRODUCTS
    assert any("Input Dims" in event.get("args", {}) for event in events)
    assert any(event.get("name") == "[memory]" for event in events)
    assert steps_in(folder / where) == [3, 4, 5]
    table = (run / "profile" / "steps-3-5-rank-0.txt").read_text()
    assert "Self CPU" in table
    assert "CPU Mem" in table
    assert "Input Shapes" in table
    assert same_weights(run, plain)
    assert [line.get("loss") for line in lines(run)] == [line.get("loss") for line in lines(plain)]


@pytest.mark.slow
def test_a_step_is_one_forward_and_backward_pass_and_one_update(folder: Path) -> None:
    done = train(folder, "one", *WORDS, "--profile.start", "2", "--profile.steps", "1", "--eval-every", "12")
    assert done.returncode == 0, done.stderr
    path = folder / "one" / "profile" / "steps-2-2-rank-0.json.gz"
    assert steps_in(path) == [2]
    updates = [event for event in trace(path) if str(event.get("name")).startswith("Optimizer.step#")]
    assert len(updates) == 1


@pytest.mark.slow
def test_a_run_that_ends_within_the_window_writes_what_there_is(folder: Path) -> None:
    done = train(folder, "short", *WORDS, "--profile.start", "11", "--profile.steps", "50")
    assert done.returncode == 0, done.stderr
    assert names(folder / "short") == ["steps-11-12-rank-0.json.gz", "steps-11-12-rank-0.txt"]
    assert steps_in(folder / "short" / "profile" / "steps-11-12-rank-0.json.gz") == [11, 12]


@pytest.mark.slow
def test_a_stopped_and_resumed_run_records_from_where_each_process_begins(folder: Path, plain: Path) -> None:
    words = (*WORDS, "--profile.start", "2", "--profile.steps", "2")
    code, said = train_until(folder, "stopped", 5, signal.SIGTERM, *words)
    assert code in (0, 143), said
    reached = lines(folder / "stopped")[-1]["step"]
    done = train(folder, "stopped", *words, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    assert "steps-2-3-rank-0.json.gz" in names(folder / "stopped")
    if reached < 11:
        path = folder / "stopped" / "profile" / f"steps-{reached + 2}-{min(reached + 3, 12)}-rank-0.json.gz"
        assert steps_in(path) == list(range(reached + 2, min(reached + 3, 12) + 1))
    assert same_weights(folder / "stopped", plain)


@pytest.mark.slow
def test_a_window_behind_the_end_is_warned_of_and_writes_nothing(folder: Path) -> None:
    done = train(folder, "behind", *WORDS, "--profile.start", "13")
    assert done.returncode == 0, done.stderr
    assert "the run has 12 steps, so 'profile' records none; set 'profile.start' to 12 or less" in done.stderr
    assert not (folder / "behind" / "profile").exists()


def test_every_rank_writes_a_trace_of_its_own_and_only_the_main_one_says_where(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Bench.of(Profile, {"start": 2, "steps": 1}, {}, None).run(steps=3) as run:
        run.build()
        run.hooks.run(run=run)
        said = capsys.readouterr().err
        run.local.clear()
        run.step, run.world = 1, World(rank=1, size=2)
        plugin = next(active.plugin for active in run.active if active.name == "profile")
        assert isinstance(plugin, Profile)
        plugin.hfx_step_end(run)
        torch.ones(2, 2) @ torch.ones(2, 2)
        plugin.hfx_step_end(run)
        assert "steps-2-2-rank-1.json.gz" in names(run.output)
        assert "steps-2-2-rank-0.json.gz" in names(run.output)
    assert said.count("profile of steps 2 to 2") == 1
    assert capsys.readouterr().err == ""


def test_a_folder_that_cannot_be_written_costs_a_warning_and_not_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    with Bench.of(Profile, {"start": 2, "steps": 1}, {}, None).run(steps=3) as run:
        (run.output / "profile").write_text("a file is in the way")
        assert trained(run).step == 3
    assert "hfx: warning: the profile cannot be written:" in capsys.readouterr().err
