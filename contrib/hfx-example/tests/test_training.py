"""Both plugins in real runs, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SMALL = [
    "--data", "rows.jsonl", "--batch-size", "8", "--seq-length", "32", "--plugin", "fp32", "--plugin", "constant",
    "--bpe.vocab-size", "300", "--scratch.hidden-size", "32", "--scratch.layers", "2", "--adamw.lr", "3e-3",
    "--plugin", "lookahead", "--lookahead.every", "3",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with rows to train on."""
    rows = [{"text": f"{number} and {number + 1} are neighbours, {number} comes first"} for number in range(200)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def train(folder: Path, *words: str) -> str:
    """Run `hfx train`; return what it says while it runs."""
    command = [sys.executable, "-m", "hfx", "train", *SMALL, *words]
    environ = {**os.environ, "HFX_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def figures(run: Path) -> list[dict[str, Any]]:
    """Return the lines of `metrics.jsonl` without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = {"tokens_per_second", "memory_bytes"}
    return [
        {name: value for name, value in line.items() if name not in measured and not name.endswith("_seconds")}
        for line in lines
    ]


def test_a_run_that_reached_its_target_stops_and_goes_on_to_the_bit(folder: Path) -> None:
    train(folder, "--output", "whole", "--steps", "8")
    stopping = ["--plugin", "target_loss", "--target-loss.loss", "100", "--target-loss.steps", "4"]
    told = train(folder, "--output", "parts", "--steps", "8", *stopping)
    stopped = figures(folder / "parts")
    assert "target_loss" in told
    assert 4 <= stopped[-1]["step"] < 8

    train(folder, "--output", "parts", "--steps", "8", "--resume", "auto")

    assert figures(folder / "parts") == figures(folder / "whole")
    weights = [(folder / run / "model" / "model.safetensors").read_bytes() for run in ("parts", "whole")]
    assert weights[0] == weights[1]


def test_the_steps_before_the_first_meeting_are_those_of_the_optimizer_alone(folder: Path) -> None:
    train(folder, "--output", "meeting", "--steps", "5")
    train(folder, "--output", "alone", "--steps", "5", "--lookahead.every", "9")
    meeting, alone = (
        [line["loss"] for line in figures(folder / run) if "loss" in line] for run in ("meeting", "alone")
    )
    assert meeting[:3] == alone[:3]
    assert meeting[3:] != alone[3:]
