"""What one of several ranks holds, from what a process alone would: a backend states its shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from hfx.protocols import Shares, Stretch
from hfx.tracing import Peak

if TYPE_CHECKING:
    from hfx.run import Run

NAMES = ("the first layer", "the second layer", "the last but one layer", "the last layer")
INNER = "an inner layer"
LOSS = "the loss"


def ranks_of(run: Run) -> int:
    """Return how many processes a run's config asks for; of a range of machines the fewest, where each holds most."""
    config = run.config
    on_each = max(1, torch.accelerator.device_count()) if config.nproc == "auto" else config.nproc
    return on_each * int(config.nnodes.partition(":")[0])


def shares_of(run: Run) -> Shares | None:
    """Return what the backend's plugin states for a rank; None where there is one rank, or it states nothing."""
    name = run.resolved.roles["backend"].plugin
    plugin: Any = next(active.plugin for active in run.active if active.name == name)
    if run.world.size == 1 or not hasattr(plugin, "shares"):
        return None
    _ = run.optimizer
    found: Shares | None = plugin.shares(run=run, module=run.module, ranks=run.world.size)
    return found


def of_rank(peak: Peak, name: str, layers: int, shares: Shares) -> Peak:
    """Return what a rank holds in a part of the step in which a process alone would hold `peak`.

    Args:
        peak: Bytes by kind.
        name: The part's name: `forward of the last layer`.
        layers: How many layers the model has; 0 where the plan does not tell them apart.
        shares: What the backend states.
    """
    stretch = _stretch(name, layers, peak["gradients"])
    held = Peak(peak)
    if stretch.phase != "build":
        held["parameters"] = round(peak["parameters"] * shares.parameters)
        held["optimizer state"] = round(peak["optimizer state"] * shares.state)
        held["gradients"] = round(peak["gradients"] * shares.gradients)
    for kind, size in shares.beside(stretch).items():
        held[kind] = size if kind == "gradients" else held[kind] + size
    return held


def _stretch(name: str, layers: int, gradients: int) -> Stretch:
    phase, _, where = name.partition(" of ")
    if not where or where == LOSS:
        done = layers if name == f"forward of {LOSS}" else 0
        return Stretch(name, done, layers, gradients)  # type: ignore[arg-type]
    if where in NAMES:
        at = (0, 1, layers - 2, layers - 1)[NAMES.index(where)]
    else:
        at = layers // 2 if where == INNER else int(where.removeprefix("layer "))
    return Stretch(phase, at if phase == "forward" else layers - 1 - at, layers, gradients)  # type: ignore[arg-type]
