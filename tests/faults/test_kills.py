"""SIGKILL at random moments: a run that is begun again ends with the bits of an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ranks import PHASES, assert_same_run, folder_of_rows, phase, ranks_of, started

pytestmark = pytest.mark.faults
KILLS = int(os.environ.get("HFX_KILLS", "20"))
"""How many runs are killed, over all numbers of ranks; from 200 on, no phase may have been missed."""
SEED = int(os.environ.get("HFX_KILL_SEED", "1"))
STEPS = 24
WORDS = ("--steps", str(STEPS), "--save-every", "1", "--eval-every", "2", "--local.restarts", "9")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with undisturbed runs on one, two and four processes, and how long they took."""
    path = folder_of_rows(tmp_path_factory.mktemp("kills"))
    for world in (1, 2, 4):
        began = time.monotonic()
        assert started(path, f"whole-{world}", *WORDS, nproc=world).wait() == 0
        (path / f"seconds-{world}").write_text(str(time.monotonic() - began))
    return path


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
        run = started(folder, output, *WORDS, nproc=world)
        time.sleep(moment)
        ranks = ranks_of(run, world)
        for rank in ranks if rng.random() < 0.5 else rng.sample(ranks, min(1, len(ranks))):
            rank.kill()
        hit[phase(folder, output) if ranks else "start"] += 1
        code = run.wait(timeout=300)
        if code == -signal.SIGKILL:
            code = started(folder, output, *WORDS, nproc=world).wait(timeout=300)
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
