"""A run whose evaluations get better and then worse: small, quick, the same every time."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import hfx
from hfx import Plugin, hookimpl
from hfx.protocols import RunResult


class Ends(Plugin):
    """Ends the run early, saved, as if it had no more time."""

    after: int = 1

    @hookimpl
    def hfx_step_end(self, run: Any, metrics: dict[str, Any]) -> None:
        if metrics["step"] == self.after:
            run.request_stop("enough")


def rows(folder: Path) -> Path:
    """Write texts of which nothing general can be learned but the frequency of words."""
    rng = random.Random(0)
    path = folder / "rows.jsonl"
    names = [left + right for left in ("ba", "ko", "mi", "tu", "re") for right in ("la", "ne", "so", "ri", "vu", "ga")]
    with path.open("w") as file:
        for _ in range(40):
            file.write(json.dumps({"text": " ".join(rng.choices(names, k=12))}) + "\n")
    return path


def config(data: Path, **more: Any) -> dict[str, Any]:
    """Return the config of the run; `more` are fields, and `plugins` beside its own."""
    plugins = {
        "fp32": {}, "bpe": {"vocab_size": 300}, "scratch": {"hidden_size": 64, "layers": 2, "heads": 2},
        "adamw": {"lr": 0.02}, "constant": {"warmup": 0}, "no:progress": None,
    }  # fmt: skip
    own = more.pop("plugins", {})
    fields = {"data": str(data), "eval_share": 0.3, "batch_size": 16, "seq_length": 32, "steps": 40, "eval_every": 4}
    return {**fields, **more, "plugins": plugins | own}


def trained(data: Path, output: Path, **more: Any) -> RunResult:
    """Train, and return how it ended."""
    return hfx.train(config(data, **more), output=str(output))


def evaluations(output: Path) -> dict[int, dict[str, float]]:
    """Return the figures of a run's evaluations by their steps."""
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line for line in lines if "eval_loss" in line}
