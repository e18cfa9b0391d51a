"""What is refused before anything is submitted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def train(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `hfx train` with an `sbatch` and an `srun` that fail where they are called."""
    for name in ("sbatch", "srun"):
        (folder / name).write_text("#!/bin/sh\nexit 9\n")
        (folder / name).chmod(0o755)
    command = [sys.executable, "-m", "hfx", "train", "--data", "rows.jsonl", "--plugin", "slurm", *words]
    environ = os.environ | {"PATH": f"{folder}:/usr/bin:/bin"}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "'slurm' needs one folder that all nodes see; add '--output'"),
        (["--output", "run", "--nproc", "2"], "'--slurm.processes' and '--slurm.nodes'"),
        (["--output", "run", "--slurm.minutes", "2"], "lower '--slurm.save-seconds', or raise '--slurm.minutes'"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_and_leaves_nothing(
    tmp_path: Path, words: list[str], told: str
) -> None:
    done = train(tmp_path, *words)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "runs").exists()


def test_a_machine_without_slurm_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hfx", "train", "--data", "rows.jsonl", "--output", "run", "--plugin", "slurm"]
    environ = os.environ | {"PATH": "/nowhere"}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "finds no 'sbatch' and 'srun' on this machine" in done.stderr.splitlines()[-1]
