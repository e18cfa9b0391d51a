"""Runs that diverge, or whose memory ends within a step: what they do, and that a resumed one does the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ranks import assert_same_run, folder_of_rows, ledger, metrics, trained
from toy_packages import toy_package

pytestmark = pytest.mark.faults
ILL = '''"""Ills."""

import os
import signal
from pathlib import Path

import torch

from hfx import Plugin, hookimpl


class Toy(Plugin):
    """Does something to the loss of some batches, counted from 0: they are ill whenever they are trained on."""

    does: str = "nan"
    """To the loss: `nan`, `high`; to its gradient: `inf`; where many sequences come at once: `memory`, `backward`."""
    batches: str = "4"
    """Which."""
    rank: int = -1
    """To whom; -1: to all."""
    beyond: int = 0
    """How many sequences there is memory for."""

    @hookimpl(wrapper=True)
    def hfx_run(self, run):
        ill = set(map(int, self.batches.split(","))) if self.batches != "all" else range(10**6)

        def forward(module, args, loss):
            at = run.position
            if not module.training or self.rank not in (-1, run.world.rank):
                return None
            if at.epoch * 10**6 + at.block * 1000 + at.window // 7 not in ill:
                return None
            if self.does in ("memory", "backward") and len(args[0]["input_ids"]) <= self.beyond:
                return None
            return getattr(self, self.does)(loss)

        handle = run.module.register_forward_hook(forward)
        try:
            return (yield)
        finally:
            handle.remove()

    def nan(self, loss):
        return loss * float("nan")

    def high(self, loss):
        return loss * 20

    def inf(self, loss):
        loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    def memory(self, loss):
        raise MemoryError

    def backward(self, loss):
        loss.register_hook(self.memory)
        return loss
'''
KILL = '''"""A kill."""

import os
import signal
from pathlib import Path

from hfx import Plugin, hookimpl


class Toy(Plugin):
    """Kills a run that went back to a checkpoint, once, after a step."""

    step: int = 4
    """Which."""

    @hookimpl
    def hfx_step_end(self, run):
        mark = Path("mark")
        if run.step == self.step and not mark.exists() and '"rollback"' in (run.output / "metrics.jsonl").read_text():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
'''
AGAIN = ("--plugin", "ill", "--guard.non-finite", "3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of rows, with plugins that make runs ill."""
    path = folder_of_rows(tmp_path_factory.mktemp("guards"))
    toy_package(path / "packages", "hfx-ills", {"ill": ILL, "kill": KILL})
    return path


@pytest.fixture(scope="module")
def sound(folder: Path) -> Path:
    """A run of one process that nothing happens to."""
    trained(folder, "sound", nproc=1)
    return folder / "sound"


def lines(run: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def events(run: Path) -> list[dict[str, Any]]:
    return [line for line in lines(run) if "event" in line]


def batches(run: Path) -> list[int]:
    """Return which batches of the first epoch a run has trained on."""
    return [line["position"]["window"] // 7 for line in lines(run, "ledger.jsonl")]


def assert_near(first: Path, second: Path) -> None:
    """Compare the losses, and that the runs saw the same."""
    assert ledger(first) == ledger(second)
    ours, theirs = (
        [line["loss"] for line in lines(run) if "loss" in line and "event" not in line] for run in (first, second)
    )
    assert ours == pytest.approx(theirs, abs=1e-5, rel=1e-5)


# ── losses and gradients that are not finite ─────────────────────────────────────────────────────────────────────────


def test_a_step_that_is_not_finite_is_skipped_and_written_down(folder: Path) -> None:
    said = trained(folder, "single", *AGAIN, nproc=1).stderr
    run = folder / "single"
    assert "hfx: warning: step 5: the loss or a gradient is not finite" in said
    assert events(run) == [{"step": 5, "event": "non_finite", "in_a_row": 1}]
    assert [line["step"] for line in lines(run) if line.get("skipped")] == [5]
    assert batches(run) == list(range(8))


def test_a_run_that_stays_ill_goes_back_and_leaves_out_what_it_was_ill_on_and_so_does_one_that_is_killed_then(
    folder: Path,
) -> None:
    words = (*AGAIN, "--ill.batches", "4,5,6,8")
    said = trained(folder, "back", *words, nproc=1).stderr
    run = folder / "back"
    assert (
        "hfx: the loss or a gradient was not finite in 3 steps in a row, up to step 7; back to step 3, and on behind "
        "the 4 batches trained on since"
    ) in said
    assert [(line["event"], line["step"]) for line in events(run)] == [("rollback", 4), ("non_finite", 5)]
    assert events(run)[0] | {"reason": ""} == {
        "step": 4, "event": "rollback", "reason": "", "from": 7, "to": 3, "times": 1, "skipped_batches": 4,
    }  # fmt: skip
    assert batches(run) == [0, 1, 2, 7, 8, 9, 10, 11]
    assert [line["step"] for line in lines(run) if "loss" in line] == list(range(1, 9))
    cut = lines(run, "ledger.after-3.jsonl")
    assert [line["step"] for line in cut] == [4, 5, 6, 7]
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["step-00000006", "step-00000008"]

    trained(folder, "killed", *words, "--plugin", "kill", nproc=1, code=-9)
    assert len(lines(folder / "killed", "ledger.jsonl")) == 4
    trained(folder, "killed", *words, "--plugin", "kill", "--resume", "auto", nproc=1)
    assert_same_run(run, folder / "killed")
    assert events(run) == events(folder / "killed")


def test_a_run_that_stays_ill_for_ever_ends_with_what_to_do(folder: Path) -> None:
    words = (*AGAIN, "--ill.batches", ",".join(map(str, range(7, 40))), "--guard.rollbacks", "1")
    said = trained(folder, "ever", *words, "--steps", "12", nproc=1, code=1).stderr
    assert re.search(
        r"hfx: the loss or a gradient was not finite in 3 steps in a row, up to step 9, and to go back did not help "
        r"\(1 times\); lower the learning rate \('--adamw.lr'\)",
        said,
    ), said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_run_without_a_checkpoint_to_go_back_to_says_so(folder: Path) -> None:
    said = trained(folder, "none", *AGAIN, "--ill.batches", "1,2,3", nproc=1, code=1).stderr
    assert "there is no checkpoint of step 1 or before to go back to; lower the learning rate ('--adamw.lr')" in said


@pytest.mark.slow
def test_a_gradient_that_is_infinite_counts_though_the_loss_is_finite(folder: Path) -> None:
    trained(folder, "inf", *AGAIN, "--ill.does", "inf", "--ill.batches", "4,5,6", nproc=1)
    [event] = events(folder / "inf")
    assert (event["event"], event["to"], event["skipped_batches"]) == ("rollback", 3, 4)


@pytest.mark.slow
def test_a_checkpoint_after_which_nothing_went_well_is_given_up_for_the_one_before(folder: Path) -> None:
    words = ("--ill.batches", ",".join(map(str, range(6, 12))), "--keep", "3", "--steps", "10")
    trained(folder, "older", *AGAIN, *words, nproc=1)
    assert [(event["to"], event["times"]) for event in events(folder / "older")] == [(3, 2)]
    assert batches(folder / "older") == [0, 1, 2, *range(12, 19)]


@pytest.mark.slow
@pytest.mark.parametrize("plugin", ["ema", "schedule_free"])
def test_what_plugins_and_a_thread_that_saves_keep_goes_back_too(folder: Path, plugin: str) -> None:
    words = (*AGAIN, "--ill.batches", "4,5,6", "--plugin", plugin, "--async-save", "true")
    words += ("--plugin", "constant") if plugin == "schedule_free" else ()
    run, other = folder / plugin, folder / f"{plugin}-killed"
    trained(folder, run.name, *words, nproc=1)
    assert [event["to"] for event in events(run) if event["event"] == "rollback"] == [3]
    (folder / "mark").unlink(missing_ok=True)
    trained(folder, other.name, *words, "--plugin", "kill", nproc=1, code=-9)
    trained(folder, other.name, *words, "--plugin", "kill", "--resume", "auto", nproc=1)
    assert_same_run(run, other)


@pytest.mark.slow
@pytest.mark.parametrize("backend", [("ddp",), ("fsdp",), ("zero", "2"), ("zero", "3")], ids="-".join)
def test_ranks_go_back_together_and_the_same_way_when_killed(folder: Path, backend: tuple[str, ...]) -> None:
    name, stage = backend[0], backend[1:]
    words = (*AGAIN, "--ill.batches", "4,5,6", "--plugin", name, *(("--zero.stage", *stage) if stage else ()))
    run, other = folder / "-".join(backend), folder / f"{'-'.join(backend)}-killed"
    trained(folder, run.name, *words)
    [event] = [event for event in events(run) if event["event"] == "rollback"]
    assert (event["to"], event["skipped_batches"]) == (3, 4)
    assert batches(run) == [0, 1, 2, 7, 8, 9, 10, 11]
    (folder / "mark").unlink(missing_ok=True)
    assert "all begin again" in trained(folder, other.name, *words, "--plugin", "kill").stderr
    assert (folder / "mark").exists()
    assert_same_run(run, other)


@pytest.mark.slow
def test_a_stream_goes_on_behind_the_batches_it_was_ill_on(folder: Path) -> None:
    words = ("--plugin", "stream", "--stream.block", "30", "--plugin", "kill")
    # Blocks of thirty rows: the batches from the one in which the second begins.
    trained(folder, "stream-sound", *words[:4], nproc=1)
    places = [line["position"] for line in lines(folder / "stream-sound", "ledger.jsonl")]
    ill = [at["block"] * 1000 + at["window"] // 7 for at in places[4:7]]
    assert {at["block"] for at in places[:8]} > {0}
    words = (*words, *AGAIN, "--ill.batches", ",".join(map(str, ill)))
    trained(folder, "stream", *words[:4], *words[6:], nproc=1)
    seen = [line["position"] for line in lines(folder / "stream", "ledger.jsonl")]
    assert seen[:3] == places[:3]
    assert seen[3] == places[7]
    (folder / "mark").unlink(missing_ok=True)
    trained(folder, "stream-killed", *words, nproc=1, code=-9)
    trained(folder, "stream-killed", *words, "--resume", "auto", nproc=1)
    assert_same_run(folder / "stream", folder / "stream-killed")


# ── spikes ───────────────────────────────────────────────────────────────────────────────────────────────────────────

SPIKE = (
    "--plugin",
    "ill",
    "--ill.does",
    "high",
    "--ill.batches",
    "5,6",
    "--guard.window",
    "4",
    "--guard.spike-steps",
    "2",
)


def test_a_spike_is_told_and_written_down(folder: Path) -> None:
    said = trained(folder, "warned", *SPIKE, nproc=1).stderr
    [event] = events(folder / "warned")
    assert (event["event"], event["step"], event["action"]) == ("spike", 7, "warn")
    assert event["reached"] > 10 * event["usual"]
    assert re.search(r"hfx: warning: the loss spiked: [0-9.]+ at step 7, the median before it is [0-9.]+\n", said), said
    assert batches(folder / "warned") == list(range(8))


@pytest.mark.slow
def test_a_spike_is_left_out_where_that_is_asked_for(folder: Path) -> None:
    said = trained(folder, "spike-back", *SPIKE, "--guard.on-spike", "rollback", nproc=1).stderr
    [spike] = [line for line in lines(folder / "spike-back", "metrics.after-3.jsonl") if "event" in line]
    [back] = events(folder / "spike-back")
    assert (spike["event"], spike["action"], back["to"], back["from"]) == ("spike", "rollback", 3, 7)
    assert "back to step 3, and on behind the 4 batches" in said
    assert batches(folder / "spike-back") == [0, 1, 2, 7, 8, 9, 10, 11]


@pytest.mark.slow
def test_a_spike_stops_the_run_saved_where_that_is_asked_for(folder: Path) -> None:
    said = trained(folder, "spike-stop", *SPIKE, "--guard.on-spike", "stop", "--steps", "20", nproc=1).stderr
    assert "; the run stops after one more step" in said
    assert batches(folder / "spike-stop") == list(range(8))
    assert (folder / "spike-stop" / "checkpoints" / "step-00000008").is_dir()


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────────

FULL = ("--plugin", "ill", "--ill.does", "memory", "--ill.beyond", "1")


@pytest.mark.parametrize(
    "does",
    ["memory", pytest.param("backward", marks=pytest.mark.slow)],
    ids=["in the forward pass", "in the backward pass"],
)
def test_a_step_that_runs_out_of_memory_is_tried_again_with_half_the_micro_batch(
    folder: Path, sound: Path, does: str
) -> None:
    said = trained(folder, f"full-{does}", *FULL, "--ill.does", does, nproc=1).stderr
    run = folder / f"full-{does}"
    assert "hfx: warning: memory ran out in step 5; it is tried again with 'micro_batch_size' 1" in said
    [event] = events(run)
    assert event == {"step": 5, "event": "micro_batch_size", "reason": "memory ran out", "from": 2, "to": 1}
    assert_near(sound, run)
    assert "micro_batch_size: 2" in (run / "run.yaml").read_text()
    state = json.loads((run / "checkpoints" / "step-00000006" / "state.json").read_text())
    assert (state["micro_batch_size"], state["run"]["micro_batch_size"]) == (1, 2)


@pytest.mark.slow
def test_a_resumed_run_keeps_the_smaller_micro_batch_unless_another_one_is_given(folder: Path, sound: Path) -> None:
    words = (*FULL, "--ill.batches", "4,7")
    trained(folder, "kept", *words, "--plugin", "harm", "--harm.rank", "0", "--harm.step", "7", nproc=1, code=-9)
    said = trained(folder, "kept", *words, "--resume", "auto", nproc=1).stderr
    assert "memory ran out before: micro-batches of 1 sequences at most" in said
    assert "it is tried again" not in said
    assert_near(sound, folder / "kept")
    said = trained(folder, "kept", *FULL, "--resume", "auto", "--steps", "9", "--micro-batch-size", "4", nproc=1).stderr
    state = json.loads((folder / "kept" / "checkpoints" / "step-00000009" / "state.json").read_text())
    assert state["micro_batch_size"] == 4
    assert "memory ran out before" not in said


@pytest.mark.slow
def test_a_step_for_which_one_sequence_is_too_much_ends_the_run_with_advice(folder: Path) -> None:
    said = trained(folder, "too-much", *FULL, "--ill.beyond", "0", nproc=1, code=1).stderr
    assert "it is tried again with 'micro_batch_size' 1" in said
    assert re.search(r"hfx: memory ran out at step 4, with [0-9.]+ GiB in use; add '--plugin gradient_ch", said)
    assert "micro-batch-size" not in said


def test_ranks_of_which_one_runs_out_of_memory_all_begin_again_with_half_the_micro_batch(folder: Path) -> None:
    trained(folder, "both")
    said = trained(folder, "one-full", *FULL, "--ill.rank", "1", "--local.restarts", "0").stderr
    assert re.search(
        r"hfx: rank 1: memory ran out at step 4, with .* GiB in use; use '--micro-batch-size 1' .*; all begin again at "
        r"the newest checkpoint, with 'micro_batch_size' 1",
        said,
    ), said
    [event] = events(folder / "one-full")
    assert event["reason"] == "memory ran out on some rank"
    assert (event["step"], event["from"], event["to"]) == (4, 2, 1)
    assert_near(folder / "both", folder / "one-full")
    assert "micro_batch_size: 2" in (folder / "one-full" / "run.yaml").read_text()


@pytest.mark.slow
def test_ranks_that_run_out_of_memory_before_a_checkpoint_begin_anew_and_with_one_sequence_end(folder: Path) -> None:
    words = (*FULL, "--micro-batch-size", "4", "--ill.rank", "1", "--ill.batches", "1")
    said = trained(folder, "early", *words).stderr
    assert [event["to"] for event in events(folder / "early")] == [1]
    assert said.count("all begin again") == 2
    said = trained(folder, "never", *words, "--ill.beyond", "0", code=1).stderr
    assert "hfx: rank 1: memory ran out at step 1" in said.splitlines()[-1]
    assert metrics(folder / "early")[-1]["step"] == 8
