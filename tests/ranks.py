"""Runs of several processes, started as a user does, and a plugin that does harm in one of them, once."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file

from command_line import MODULE, environment, hfx
from toy_packages import toy_package

EXACT = ("step", "epoch", "loss", "lr", "grad_norm", "tokens", "eval_loss")
SMALL = (
    *("--seq-length", "48", "--bpe.vocab-size", "280", "--scratch.hidden-size", "32", "--scratch.layers", "2"),
    *("--scratch.heads", "4", "--batch-size", "7", "--micro-batch-size", "2", "--plugin", "fp32", "--steps", "8"),
    *("--save-every", "3", "--eval-every", "4", "--data", "rows.jsonl"),
)
"""A run of eight steps with a checkpoint after the third and the sixth; no rank has as much to do as the others."""
HARM = '''"""Harm."""

import os
import signal
import time
from pathlib import Path

from hfx import Plugin, hookimpl


class Toy(Plugin):
    """Does something to one rank after a step, once."""

    does: str = "SIGKILL"
    """A signal; or `raise`, `sleep`."""
    step: int = 5
    """After which step."""
    rank: int = 1
    """To whom."""
    mark: str = "harmed"
    """The file that says it is done."""
    always: bool = False
    """Do it again and again."""

    @hookimpl
    def hfx_step_end(self, run):
        if (run.step, run.world.rank) != (self.step, self.rank) or (Path(self.mark).exists() and not self.always):
            return
        Path(self.mark).touch()
        if self.does == "raise":
            raise ArithmeticError("the toy is broken")
        if self.does == "sleep":
            time.sleep(600)
        if self.does == "SIGSTOP":
            time.sleep(2)  # a rank says where it is twice a second
        os.kill(os.getpid(), getattr(signal, self.does))
'''

PHASES = ("start", "prepare", "forward", "evaluate", "save before the manifest", "save after the manifest", "export")
"""Where a run may be when something happens to it."""
PHASE = '''"""Where a run is."""

import os
from pathlib import Path

from hfx import Plugin, hookimpl


class Toy(Plugin):
    """Writes down what rank 0 has just begun."""

    def at(self, run, what):
        if run.world.is_main:
            Path(os.environ["HFX_TEST_PHASE"]).write_text(what)

    @hookimpl(wrapper=True)
    def hfx_source(self, run):
        self.at(run, "prepare")
        return (yield)

    @hookimpl(wrapper=True)
    def hfx_run(self, run):
        self.at(run, "forward")
        return (yield)

    @hookimpl
    def hfx_step_end(self, run):
        self.at(run, f"evaluate {run.step}" if run.evaluation_due() else f"save {run.step}")

    @hookimpl
    def hfx_evaluated(self, run):
        self.at(run, f"save {run.step}")

    @hookimpl
    def hfx_saved(self, run):
        self.at(run, "forward")

    @hookimpl(wrapper=True)
    def hfx_export(self, run, path):
        self.at(run, "export")
        return (yield)
'''


def folder_of_rows(path: Path) -> Path:
    """Write rows of very different lengths, and a package with the plugin `harm`, and return the folder."""
    rng = random.Random(0)
    words = [
        "the",
        "order",
        "of",
        "samples",
        "is",
        "a",
        "pure",
        "function",
        "and",
        "a",
        "run",
        "that",
        "was",
        "killed",
        "goes",
        "on",
        "to",
        "the",
        "bit",
    ]
    with (path / "rows.jsonl").open("w") as file:
        for _ in range(300):
            file.write(json.dumps({"text": " ".join(rng.choices(words, k=rng.choice([2, 9, 30])))}) + "\n")
    (path / "packages").mkdir()
    toy_package(path / "packages", "hfx-harm", {"harm": HARM, "phases": PHASE})
    return path


def trained(
    folder: Path, output: str, *words: str, nproc: int = 2, code: int = 0, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Train in some processes and return what was said; fails where the exit code is another."""
    done = hfx(
        *("train", *SMALL, "--output", output, "--nproc", str(nproc), *words),
        cwd=folder,
        path=folder / "packages",
        HFX_CACHE=str(folder / "cache"),
        CUDA_VISIBLE_DEVICES="",
        **environ,
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr[-4000:]}"
    return done


def started(folder: Path, output: str, *words: str, nproc: int) -> subprocess.Popen[bytes]:
    """Start a run that says where it is, or start it again where it is."""
    # A cache of its own, so that every run prepares.
    own = {"HFX_CACHE": str(folder / f"cache-{output}"), "HFX_TEST_PHASE": str(folder / f"phase-{output}")}
    words = (*SMALL, "--plugin", "phases", *words, "--output", output, "--nproc", str(nproc), "--resume", "auto")
    with (folder / f"said-{output}").open("ab") as said:
        return subprocess.Popen(
            [*MODULE, "train", *words],
            cwd=folder,
            env=environment(folder / "packages", CUDA_VISIBLE_DEVICES="", **own),
            stdout=said,
            stderr=said,
        )


def phase(folder: Path, output: str) -> str:
    """Return where a run is."""
    mark = folder / f"phase-{output}"
    what, _, step = (mark.read_text() if mark.exists() else "start").partition(" ")
    if what != "save":
        return what or "forward"
    committed = (folder / output / "checkpoints" / f"step-{int(step):08d}").exists()
    return f"save {'after' if committed else 'before'} the manifest"


def ranks_of(launcher: subprocess.Popen[bytes], nproc: int) -> list[psutil.Process]:
    """Return the processes that train."""
    try:
        own = psutil.Process(launcher.pid)
        return [own] if nproc == 1 else [p for p in own.children() if "hfx.job" in p.cmdline()]
    except psutil.NoSuchProcess:
        return []


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return the figures of a run that are not timings."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{key: line.get(key) for key in EXACT} for line in lines]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Return what a run exported."""
    found: dict[str, torch.Tensor] = load_file(run / "model" / "model.safetensors")
    return found


def ledger(run: Path) -> str:
    """Return what a run has seen."""
    return (run / "ledger.jsonl").read_text()


def assert_same_run(first: Path, second: Path) -> None:
    """Compare all that is not a timing, to the bit."""
    assert metrics(first) == metrics(second)
    assert ledger(first) == ledger(second)
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def distance(first: Path, second: Path) -> float:
    """Return how far two runs' weights are apart: the relative L2 distance over all of them."""
    ours, theirs = weights(first), weights(second)
    apart = sum(float((ours[name] - theirs[name]).double().square().sum()) for name in ours)
    whole = sum(float(ours[name].double().square().sum()) for name in ours)
    return (apart / whole) ** 0.5
