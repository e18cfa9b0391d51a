from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hfx.claim import claimed, held
from hfx.errors import StorageError
from hfx.run_folder import RunFolder, speed
from hfx.run_folders import differing, runs_in
from run_records import ended, step_line, steps, write_run

HOLD = """
import sys, time
from pathlib import Path
from hfx.claim import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(run: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the claim on a run."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_run_is_running_while_a_live_process_holds_it_whatever_its_files_say(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps(5), status=ended("finished", 5))
    assert RunFolder(run).standing().how == "finished"
    with holder(run) as process:
        assert held(run)
        assert RunFolder(run).standing().how == "running"
        process.kill()
        process.wait()
        assert not held(run)
        assert RunFolder(run).standing().how == "finished"


def test_looking_at_a_run_refuses_no_run_that_begins_at_the_same_moment(tmp_path: Path) -> None:
    with claimed(tmp_path):
        pass
    descriptor = os.open(tmp_path / ".lock", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    with pytest.raises(StorageError, match="another process is training"), claimed(tmp_path):
        pass
    release = subprocess.Popen(["sleep", "0.1"], pass_fds=[descriptor])
    os.close(descriptor)  # the sleeping process holds it a moment longer
    with claimed(tmp_path):
        assert held(tmp_path)
    release.wait()


@pytest.mark.parametrize(
    ("status", "how", "why"),
    [
        (ended("finished", 5), "finished", None),
        (ended("stopped", 5, "SIGTERM"), "stopped", "SIGTERM"),
        (ended("failed", 5, "StorageError: disk"), "failed", "StorageError: disk"),
        (ended("finished", 5) | {"ended": None}, "killed", "it ended without a word"),
    ],
)
def test_how_a_run_ended_is_what_it_said(status: dict[str, object], how: str, why: str | None, tmp_path: Path) -> None:
    standing = RunFolder(write_run(tmp_path / "run", steps(5), status=status)).standing()
    assert (standing.how, standing.why) == (how, why)


def test_how_a_run_ended_that_wrote_no_status_is_told_by_what_it_left(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps(5))
    assert RunFolder(run).standing().how == "killed"
    saved = run / "checkpoints" / "step-00000005"
    saved.mkdir(parents=True)
    (saved / "MANIFEST.json").write_text("{}")
    assert RunFolder(run).standing().how == "stopped"
    (run / "model").mkdir()
    (run / "model" / "config.json").write_text("{}")
    assert RunFolder(run).standing().how == "finished"


def test_a_run_of_another_machine_that_still_writes_is_running_where_locks_do_not_reach(tmp_path: Path) -> None:
    status = ended("finished", 5) | {"ended": None, "host": "another"}
    run = write_run(tmp_path / "run", steps(5), status=status)
    assert RunFolder(run).standing().how == "running"
    for name in ("metrics.jsonl", "status.json"):
        os.utime(run / name, (time.time() - 600,) * 2)
    assert RunFolder(run).standing().how == "killed"


@pytest.mark.parametrize("name", ["run.yaml", "status.json", "data_report.json", "plan.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", ["", "{", "[1]", "\0\0", '"', "a: [", "\xff"])
def test_a_damaged_file_is_named_and_the_rest_is_told(name: str, content: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps(5), status=ended("finished", 5))
    (run / name).write_text(content, encoding="latin-1")
    found = RunFolder(run)
    told = (found.standing().how, found.config, found.step, found.data_report, found.plan, found.begun)

    assert told[0] in ("finished", "killed")
    assert told[2] == (0 if name == "metrics.jsonl" else 5)
    if name != "metrics.jsonl" and not (name == "run.yaml" and content == ""):
        assert len(found.problems) == 1
        assert name in found.problems[0]


def test_a_name_of_digits_that_are_no_date_tells_no_time(tmp_path: Path) -> None:
    status = {name: value for name, value in ended("finished", 5).items() if name != "begun"}
    found = RunFolder(write_run(tmp_path / "20241399-000000-odd", steps(5), status=status))
    assert found.begun is not None
    assert found.begun.timestamp() == pytest.approx(time.time(), abs=60)


def test_speed_is_that_of_the_last_steps_waiting_included() -> None:
    lines = [step_line(1, 1.0), step_line(2, 1.0, step_seconds=0.2, data_seconds=0.08)]
    assert speed(lines) == pytest.approx(800 / (0.11 + 0.28))
    assert speed([]) is None
    assert speed([{"step": 1, "loss": 1.0}]) is None


def test_runs_are_found_below_a_folder_and_none_within_a_run(tmp_path: Path) -> None:
    for name in ("b", "a/one", "a/two", "b/model/within"):
        write_run(tmp_path / name, [])
    assert [str(run.path.relative_to(tmp_path)) for run in runs_in(tmp_path)] == ["a/one", "a/two", "b"]


def test_only_values_that_differ_are_told_and_options_of_others_only_where_somebody_set_them(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", [], seed=0, status=ended("finished", 1))
    two = write_run(tmp_path / "two", [], seed=1, status=ended("finished", 1))
    assert differing([RunFolder(one), RunFolder(two)]) == {"seed": [0, 1]}

    text = (two / "run.yaml").read_text().replace("  adamw:\n", "  lion:\n    betas: 0.5\n")
    (two / "run.yaml").write_text(text)
    assert differing([RunFolder(one), RunFolder(two)]) == {"plugins": ["adamw", "lion"], "seed": [0, 1]}

    said = json.loads((two / "status.json").read_text())
    (two / "status.json").write_text(json.dumps(said | {"origins": {"lion.betas": "--lion.betas"}}))
    assert differing([RunFolder(one), RunFolder(two)])["lion.betas"] == [None, 0.5]


def test_cuts_of_the_record_are_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps(5))
    (run / "metrics.after-3.jsonl").write_text("{}\n{}\n")
    assert RunFolder(run).cuts == [(3, 2)]
