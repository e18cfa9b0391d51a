"""What is refused before Ray is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "'ray' needs one folder that all nodes see; add '--output'"),
        (["--output", "run", "--nproc", "2"], "in place of '--nproc', '--nnodes' and '--rdzv'; '--ray.workers'"),
        (["--output", "run", "--ray.environment", "NOT_SET_ANYWHERE"], "'NOT_SET_ANYWHERE', which is not set"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_and_leaves_nothing(
    tmp_path: Path, words: list[str], told: str
) -> None:
    command = [sys.executable, "-m", "hfx", "train", "--data", "rows.jsonl", "--plugin", "ray", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "runs").exists()
