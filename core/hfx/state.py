"""The state of a run: what a checkpoint holds of it, and how a run goes on from one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hfx.redact import redacted

if TYPE_CHECKING:
    from torch import Tensor

    from hfx.checkpoint import Checkpoint
    from hfx.protocols import Values
    from hfx.run import Run

_STATE = 1


def state_of(run: Run) -> tuple[dict[str, Tensor], Values]:
    """Return the tensors by name, those that are trained themselves and no copies, and the rest as JSON values."""
    from hfx.order import as_json

    tensors, backend_values = run.backend.state()
    plugin_values: dict[str, dict[str, Any]] = {}
    for name, state in run.state.items():
        for key, value in state.items():
            if hasattr(value, "untyped_storage"):
                tensors[f"state.{name}.{key}"] = value
            else:
                plugin_values.setdefault(name, {})[key] = value
    return tensors, {
        "format": _STATE,
        "step": run.step,
        "epoch": run.epoch,
        "tokens_total": run.tokens_total,
        "evaluated_at": run._evaluated_at,
        "data": as_json(run.position, run.plan_sha256()),
        "schedule": run.schedule.state_dict(),
        "backend": backend_values,
        "state": redacted(plugin_values, forms=False),
        "world_size": run.world.size,
        "micro_batch_size": run.micro_batch_size,
        "total_steps": run.total_steps,
        "run": run.config.identity(),
        "plugins": {a.name: [a.distribution, a.version, a.plugin.options()] for a in run.active},
    }


def restore(run: Run, found: Checkpoint) -> None:
    """Go on from a checkpoint: tensors, counters, position, schedule and plugins' state; cut the records."""
    run.build()
    run.backend.load(found)
    run.schedule.load_state_dict(found.state["schedule"])
    if found.state["total_steps"] != run.total_steps or _scheduled_otherwise(run, found):
        _follow_schedule(run)
    restore_state(run, found)
    cut_records(run)


def restore_state(run: Run, found: Checkpoint) -> None:
    """Take counters, position and plugins' state from a checkpoint."""
    from hfx.order import Position

    state = found.state
    run.step, run.epoch, run.tokens_total = state["step"], state["epoch"], state["tokens_total"]
    run._evaluated_at, run._saved_at = state["evaluated_at"], state["step"]
    if state["run"].get("micro_batch_size") == run.config.micro_batch_size:  # else the user wants another one now
        run.micro_batch_size = state.get("micro_batch_size", run.micro_batch_size)
    run._parts["position"] = Position(**state["data"]["position"])
    restore_plugins(run, found)


def restore_plugins(run: Run, found: Checkpoint) -> None:
    """Take what plugins keep from a checkpoint; what it has nothing of stays."""
    import torch

    for name, values in found.state["state"].items():
        run.state[name].update(values)
    own = [name for name in found.names() if name.startswith("state.")]
    into = {name: torch.empty(found.shape(name), dtype=found.dtype(name)) for name in own}
    found.read(into)
    for full, tensor in into.items():
        _, name, key = full.split(".", 2)
        run.state[name][key] = tensor


def _scheduled_otherwise(run: Run, found: Checkpoint) -> bool:
    """Say whether another plugin, or another option of it, decides the learning rate than when it was saved."""
    name = run.resolved.roles["schedule"].plugin
    options = next(active.plugin.options() for active in run.active if active.name == name)
    saved = found.state["plugins"].get(name)
    return saved is None or saved[2] != options


def _follow_schedule(run: Run) -> None:
    """Give the next step the learning rate that the run's schedule has for it.

    The one in the checkpoint was computed by another one, or when the run was to have another length.
    """
    from torch.optim.lr_scheduler import LambdaLR

    if isinstance(run.schedule, LambdaLR):
        for group, lr in zip(run.optimizer.param_groups, run.schedule.get_lr(), strict=True):
            group["lr"] = lr


def cut_records(run: Run) -> None:
    """Cut what an earlier process recorded back to this step, so that no step appears twice."""
    if run.world.is_main:
        run._record("ledger").cut(run.step)
        run._record("metrics").cut(run.step, evaluated=run._evaluated_at == run.step)
