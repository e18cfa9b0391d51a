"""`hfx watch`: a run followed from another process."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from command_line import MODULE, environment, hfx, imported_by
from hfx.claim import claimed
from hfx.record import Record
from run_records import ended, step_line, steps, write_run
from seen_runs import training


def lines_of(run: Path, *words: str, code: int = 0) -> list[str]:
    done = hfx("watch", str(run), *words)
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def hears_ctrl_c() -> None:
    """Hear of Ctrl-C even where whoever runs the tests does not, as in the background of a shell."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def watching(run: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*MODULE, "watch", str(run), *words],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hears_ctrl_c,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def until(process: subprocess.Popen[str], wanted: str) -> list[str]:
    """Return the lines up to one that holds a text."""
    assert process.stdout is not None
    found: list[str] = []
    for line in process.stdout:
        found.append(line.rstrip("\n"))
        if wanted in line:
            return found
    pytest.fail(f"no line holds '{wanted}': {found}")


def test_a_real_run_is_followed_to_its_end(seen: Path) -> None:
    with training(seen, "watched", "--eval-every", "40") as trained, watching(seen / "runs" / "watched") as watched:
        said = until(watched, " left")
        assert "running at step" in said[0]
        assert said[-1].startswith("step ")
        assert "tokens/s" in said[-1]
        until(watched, "eval_loss")
        trained.send_signal(signal.SIGTERM)
        trained.communicate()
        rest, errors = watched.communicate(timeout=30)
        assert "stopped at step" in rest.splitlines()[-1]
        assert "(SIGTERM)" in rest.splitlines()[-1]
        assert (watched.returncode, errors) == (0, "")
    shutil.rmtree(seen / "runs" / "watched")


@pytest.mark.parametrize(("name", "code"), [("done", 0), ("stopped", 0), ("killed", 1), ("diverged", 1)])
def test_a_run_that_has_ended_is_told_of_at_once(name: str, code: int, seen: Path) -> None:
    how = {"done": "finished", "diverged": "failed"}.get(name, name)
    assert f": {how} at step" in lines_of(seen / "runs" / name, code=code)[-1]


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """A run that this process holds, as if it were training."""
    run = write_run(tmp_path / "run", steps(10), status=ended("finished", 10) | {"ended": None})
    with claimed(run):
        yield run


def test_events_and_evaluations_are_lines_and_a_cut_record_is_noticed(held: Path) -> None:
    record = Record(held / "metrics.jsonl")
    with watching(held, "--every", "0") as process:
        assert until(process, "step 10/100")[0].endswith("running at step 10 of 100")
        record.append(step_line(11, float("nan"), skipped=True))
        record.append({"step": 11, "event": "non_finite", "in_a_row": 1})
        record.append({"step": 11, "eval_loss": 2.5, "eval_accuracy": 0.5})
        said = until(process, "eval_loss")
        assert "loss nan" in said[0]
        assert "update skipped" in said[0]
        assert said[1] == "step 11  loss or gradient not finite (1 in a row)"
        assert said[2] == "step 11  eval_loss 2.5  eval_accuracy 0.5"
        record.cut(5)
        record.append(
            {"step": 6, "event": "rollback", "from": 11, "to": 5, "reason": "it \x1b[31mspiked", "skipped_batches": 6}
        )
        record.append(step_line(6, 2.0))
        said = until(process, "step 6/100")
        assert said[0] == "the record was cut back to step 5"
        assert len(said) == 3  # what was told before is not told again
        assert any("went back from step 11 to 5, and on behind 6 batches: it [31mspiked" in line for line in said)


def test_ctrl_c_ends_the_watching_and_nothing_else(held: Path) -> None:
    before = sorted(path.name for path in held.iterdir())
    with watching(held) as process:
        until(process, "step 10/100")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0
        assert errors == f"left '{held}' as it is\n"
    assert sorted(path.name for path in held.iterdir()) == before


def test_a_terminal_gets_one_view_with_the_curve_and_what_is_left(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps(60), status=ended("finished", 60) | {"ended": None})
    main, other = pty.openpty()
    with claimed(run):
        process = subprocess.Popen(
            [*MODULE, "watch", str(run)], env=environment(COLUMNS="100", TERM="xterm"), stdout=other, stderr=other
        )
        os.close(other)
        shown = b""
        while b"tokens/s" not in shown:
            shown += os.read(main, 4096)
        Record(run / "metrics.jsonl").append({"step": 60, "eval_loss": 1.25})
        (run / "status.json").write_text(json.dumps(ended("finished", 60)))
    while True:
        try:
            part = os.read(main, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    assert process.wait(timeout=20) == 0
    text = shown.decode()
    assert "▁" in text
    assert "step 60/100  60%" in text
    assert "s left" in text
    assert "eval_loss 1.25" in text
    assert "finished" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")  # the cursor is there again


def test_a_launcher_may_start_a_run_again(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps(5), status=ended("finished", 5) | {"ended": None, "ranks": 2})
    with claimed(run):
        process = subprocess.Popen(
            [*MODULE, "watch", str(run), "--every", "0"], env=environment(), stdout=subprocess.PIPE, text=True
        )
        until(process, "step 5/100")
    time.sleep(2.5)
    assert process.poll() is None
    with claimed(run):
        Record(run / "metrics.jsonl").append(step_line(6, 1.0))
        until(process, "step 6/100")
        (run / "status.json").write_text(json.dumps(ended("failed", 6, "DataError: rows")))
    assert until(process, "failed")[-1].endswith("failed at step 6 of 100 (DataError: rows)")
    assert process.wait(timeout=20) == 1


def test_a_folder_that_holds_no_run_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    write_run(tmp_path / "mine", [])
    done = hfx("watch", "mina", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "hfx: no such run 'mina'; did you mean 'mine'?\n"


def test_no_torch_is_imported(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps(3), status=ended("finished", 3))
    assert {"torch", "transformers", "numpy"}.isdisjoint(imported_by("watch", str(run)))
