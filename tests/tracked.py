"""Runs from the command line whose figures a tracker is told: trained, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hfx.testing.tiny import tiny_rows, write_rows

SMALL = (
    *("--data", "rows.jsonl", "--seq-length", "32", "--batch-size", "4", "--plugin", "fp32"),
    *("--bpe.vocab-size", "300", "--scratch.hidden-size", "32", "--scratch.layers", "2"),
    *("--steps", "12", "--eval-every", "4", "--save-every", "3"),
)


def folder_with_rows(path: Path) -> Path:
    """Write rows into a folder, and return it."""
    write_rows(tiny_rows(60), path / "rows.jsonl")
    return path


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return the environment of a run in the folder."""
    own = {"HFX_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HOME": str(folder)}
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("WANDB_", "MLFLOW_", "TRACKIO_"))}
    return kept | own | more


def train(folder: Path, output: str, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Train to the end."""
    command = [sys.executable, "-m", "hfx", "train", *SMALL, "--output", output, *words]
    return subprocess.run(
        command, cwd=folder, env=environment(folder, **more), text=True, capture_output=True, timeout=300
    )


def train_until(folder: Path, output: str, steps: int, end: int, *words: str, **more: str) -> tuple[int, str]:
    """Send a signal once so many steps are in `metrics.jsonl`; return the exit code and what was said."""
    command = [sys.executable, "-m", "hfx", "train", *SMALL, "--output", output, *words]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment(folder, **more),
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        metrics = folder / output / "metrics.jsonl"
        while process.poll() is None and (not metrics.exists() or metrics.read_text().count("grad_norm") < steps):
            time.sleep(0.002)
        process.send_signal(end)
        _, said = process.communicate(timeout=200)
    return process.returncode, said


def killed_and_resumed(folder: Path, output: str, *words: str, **more: str) -> str:
    """Kill a run after 8 of its 12 steps, the checkpoint being that of step 6, and train it to the end."""
    code, said = train_until(folder, output, 8, signal.SIGKILL, *words, **more)
    assert code in (-signal.SIGKILL, 0), said
    done = train(folder, output, *words, "--resume", "auto", **more)
    assert done.returncode == 0, done.stderr
    return done.stderr


def recorded(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what `metrics.jsonl` has: by figure, its steps and values."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in lines(run):
        evaluation = "loss" not in line
        for name, value in line.items():
            if name != "step" and not (evaluation and not name.startswith("eval_")):
                found.setdefault(name, []).append((line["step"], value))
    return found


def lines(run: Path) -> list[dict[str, Any]]:
    """Return the lines of `metrics.jsonl`."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
