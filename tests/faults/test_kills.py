"""SIGKILL at random moments: a run that is begun again ends with the bits of an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from command_line import MODULE, environment
from ranks import SMALL, assert_same_run, folder_of_rows
from toy_packages import toy_package

pytestmark = pytest.mark.faults
KILLS = int(os.environ.get("HFX_KILLS", "20"))
"""How many runs are killed, over all numbers of ranks; from 200 on, no phase may have been missed."""
SEED = int(os.environ.get("HFX_KILL_SEED", "1"))
STEPS = 24
WORDS = ("--steps", str(STEPS), "--save-every", "1", "--eval-every", "2", "--plugin", "phases", "--local.restarts", "9")
PHASES = ("start", "prepare", "forward", "evaluate", "save before the manifest", "save after the manifest", "export")
TOY = '''"""Where a run is."""

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with undisturbed runs on one, two and four processes, and how long they took."""
    path = folder_of_rows(tmp_path_factory.mktemp("kills"))
    toy_package(path / "packages", "hfx-phases", {"phases": TOY})
    for world in (1, 2, 4):
        began = time.monotonic()
        assert started(path, f"whole-{world}", world).wait() == 0
        (path / f"seconds-{world}").write_text(str(time.monotonic() - began))
    return path


def started(folder: Path, output: str, world: int) -> subprocess.Popen[bytes]:
    """Start a run, or start it again where it is."""
    # A cache of its own, so that every run prepares.
    own = {"HFX_CACHE": str(folder / f"cache-{output}"), "HFX_TEST_PHASE": str(folder / f"phase-{output}")}
    words = [*SMALL, *WORDS, "--output", output, "--nproc", str(world), "--resume", "auto"]
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


def ranks_of(launcher: subprocess.Popen[bytes], world: int) -> list[psutil.Process]:
    """Return the processes that train."""
    try:
        own = psutil.Process(launcher.pid)
        return [own] if world == 1 else [p for p in own.children() if "hfx.job" in p.cmdline()]
    except psutil.NoSuchProcess:
        return []


def checkpointed(run: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a run's last checkpoint: weights and optimizer's state."""
    files = (run / "checkpoints" / f"step-{STEPS:08d}").glob("*.safetensors")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def test_killed_at_random_moments_a_run_ends_with_the_same_bits(folder: Path) -> None:
    rng = random.Random(SEED)
    hit: Counter[str] = Counter()
    for number in range(KILLS):
        world, output = (1, 2, 4)[number % 3], f"killed-{number}"
        moment = rng.uniform(0, float((folder / f"seconds-{world}").read_text()))
        run = started(folder, output, world)
        time.sleep(moment)
        ranks = ranks_of(run, world)
        for rank in ranks if rng.random() < 0.5 else rng.sample(ranks, min(1, len(ranks))):
            rank.kill()
        hit[phase(folder, output) if ranks else "start"] += 1
        code = run.wait(timeout=300)
        if code == -signal.SIGKILL:
            code = started(folder, output, world).wait(timeout=300)
        said = (folder / f"said-{output}").read_text()
        assert code == 0, f"kill {number} after {moment:.2f} s on {world} ranks\n{said[-3000:]}"
        assert_same_run(folder / f"whole-{world}", folder / output)
        first, second = checkpointed(folder / f"whole-{world}"), checkpointed(folder / output)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
    print("\nkilled in: " + ", ".join(f"{name} {hit[name]}" for name in PHASES))
    assert sum(hit.values()) == KILLS
    if KILLS >= 200:
        assert all(hit[name] for name in PHASES), hit
