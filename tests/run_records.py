"""Folders of runs written as a run writes them, for what reads them: of any length, without training."""

from __future__ import annotations

import json
import math
import platform
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONFIG = """\
# 'files' (hfx 0.1.0)
# 'adamw' (hfx 0.1.0)
data: rows.jsonl
output: {output}
steps: {steps}
batch_size: 8
seq_length: 64
seed: {seed}
plugins:
  files: {{}}
  adamw:
    lr: {lr}
    beta1: 0.9
"""


def step_line(step: int, loss: float, **more: Any) -> dict[str, Any]:
    """Return a line of a step."""
    parts = {"forward_backward_seconds": 0.08, "sync_seconds": 0.001, "optimizer_seconds": 0.019}
    line = {
        "step": step, "epoch": step / 100, "loss": loss, "lr": 1e-3 / step, "grad_norm": 1.0 + loss, "tokens": 400,
        "tokens_total": 400 * step, "tokens_per_second": 3_600.0, "step_seconds": 0.1, "data_seconds": 0.01, **parts,
        "memory_bytes": 500 * 2**20,
    }  # fmt: skip
    return line | more


def steps(count: int, seed: int = 0, start: int = 1) -> Iterator[dict[str, Any]]:
    """Yield lines of steps with a loss that falls."""
    rng = random.Random(seed)
    for step in range(start, start + count):
        yield step_line(step, 2 + 5 / math.sqrt(step) + rng.gauss(0, 0.05))


def write_run(
    path: Path, lines: Any, *, steps: int = 100, seed: int = 0, lr: float = 3e-4, status: dict[str, Any] | None = None
) -> Path:
    """Write a run's config, its lines, and what it says of itself; return its folder."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "run.yaml").write_text(CONFIG.format(output=path, steps=steps, seed=seed, lr=lr))
    with (path / "metrics.jsonl").open("w") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    if status is not None:
        (path / "status.json").write_text(json.dumps(status))
    return path


def ended(how: str, step: int, why: str | None = None, total: int = 100) -> dict[str, Any]:
    """Return what a run that ended says of itself."""
    return {
        "begun": "2026-01-02T03:04:05+00:00", "started": "2026-01-02T03:04:05+00:00", "starts": 1,
        "host": platform.node(), "pid": 1, "ranks": 1, "device": "cpu", "total_steps": total,
        "origins": {"run.seed": "--seed"},
        "ended": {"how": how, "why": why, "step": step, "at": "2026-01-02T03:14:05+00:00"},
    }  # fmt: skip
