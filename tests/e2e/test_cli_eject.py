"""`hfx eject`: one script, run as a user would, in one process and in two."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import environment, hfx

TRAIN = ("train", "--data", "rows.txt", "--seq-length", "32", "--batch-size", "6", "--micro-batch-size", "2", "--steps",
         "5", "--eval-share", "0.1", "--plugin", "fp32", "--plugin", "packing", "--bpe.vocab-size", "270",
         "--scratch.hidden-size", "16",
         "--scratch.layers", "1", "--scratch.heads", "2", "--output", "runs/mine")  # fmt: skip
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
LAUNCH = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
          "--mixed_precision", "no", "--dynamo_backend", "no"]  # fmt: skip
LAUNCHERS: dict[str, list[list[str]]] = {"accelerate": [[], LAUNCH], "trainer": [TORCHRUN]}
"""How a script is started: as it is, and by two processes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run in `runs/mine`."""
    path = tmp_path_factory.mktemp("eject")
    words = ["order", "of", "samples", "is", "pure", "and", "so", "a", "run", "goes", "on"]
    lines = [" ".join(words[(i * 7 + k * k) % len(words)] for k in range(3 + i % 9)) for i in range(120)]
    (path / "rows.txt").write_text("\n".join(lines) + "\n")
    done = hfx(*TRAIN, cwd=path)
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.parametrize("style", ["accelerate", "trainer"])
def test_a_script_repeats_a_run_in_one_process_or_two(style: str, folder: Path) -> None:
    done = hfx("eject", "runs/mine", "--style", style, cwd=folder)
    assert (done.returncode, done.stdout) == (0, f"script: runs/mine/{style}/train.py\n"), done.stderr
    script = folder / "runs" / "mine" / style / "train.py"
    for launcher in LAUNCHERS[style]:
        done = subprocess.run(
            [sys.executable, *launcher, str(script)], cwd=folder, env=environment(), capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        steps = re.findall(r"step \d/5  loss (\S+)  \(the run: (\S+)\)", done.stdout)
        assert len(steps) == 5, done.stdout
        assert max(abs(float(own) - float(recorded)) for own, recorded in steps) <= 1e-5
        assert (script.parent / "model" / "model.safetensors").exists()


def test_what_is_in_the_way_is_left_alone(folder: Path) -> None:
    (folder / "held").mkdir()
    (folder / "held" / "notes.txt").write_text("mine")
    for target, says in (("held", "holds other things ('notes.txt')"), ("rows.txt", "is a file")):
        done = hfx("eject", "runs/mine", "--output", target, cwd=folder)
        assert done.returncode == 2
        assert says in done.stderr
        assert "Traceback" not in done.stderr
    assert (folder / "held" / "notes.txt").read_text() == "mine"


def test_a_run_that_is_not_there_is_named(folder: Path) -> None:
    done = hfx("eject", "runs/mein", cwd=folder)
    assert done.returncode == 2
    assert "no such run 'runs/mein'; did you mean 'runs/mine'?" in done.stderr
