"""Small checkpoints for tests: written by one process, each with tensors that tell its step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hfx import World
from hfx.checkpoint import Checkpoint, folder_of
from hfx.saving import save


class Alone:
    """The part of a backend that saving uses, for one process."""

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Return the tensor."""
        return tensor


def state(step: int) -> dict[str, Any]:
    """Return what `state.json` holds, without content."""
    counters = {"step": step, "epoch": 0.5, "tokens_total": 0, "evaluated_at": -1, "total_steps": 9, "world_size": 1}
    return counters | {name: {} for name in ("data", "schedule", "backend", "state", "run", "plugins")}


def tensors(step: int) -> dict[str, Tensor]:
    """Return tensors of several dtypes and shapes."""
    return {
        "model.w": torch.full((300, 20), float(step)),
        "model.b": torch.full((3,), float(step), dtype=torch.bfloat16),
        "model.seen": torch.tensor([True, False]),
        "model.none": torch.empty(0, 4),
        "optim.w.step": torch.tensor(float(step)),
        "optim.w.count": torch.full((5,), step, dtype=torch.int64),
    }


def saved(output: Path, step: int, chosen: int | None = None) -> Path:
    """Save a checkpoint, of a run that has chosen a step perhaps, and return its folder."""
    path = folder_of(output, step)
    values = state(step) | ({"state": {"hfx": {"chosen": chosen}}} if chosen else {})
    save(path, tensors(step), values, World(), Alone())
    return path


def assert_loads(found: Checkpoint) -> None:
    """Assert that all tensors come back to the bit."""
    wanted = tensors(found.step)
    into = {name: torch.empty_like(tensor) for name, tensor in wanted.items()}
    found.read(into)
    for name, tensor in wanted.items():
        assert torch.equal(into[name], tensor), f"'{name}' of step {found.step} is {into[name]}"
