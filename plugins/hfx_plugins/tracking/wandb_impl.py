"""A run of Weights & Biases, over accelerate's tracker."""

from __future__ import annotations

import os
import secrets
import sys
from typing import TYPE_CHECKING, Any

from accelerate.tracking import WandBTracker

from hfx_plugins.tracking.told_impl import Figures, config_of, folder_of, name_of
from hfx_plugins.tracking.trackers_impl import Client

if TYPE_CHECKING:
    from hfx import Run
    from hfx_plugins.tracking.wandb import Wandb


def open_run(plugin: Wandb, run: Run) -> Client:
    """Begin a run, or go on with the one that the checkpoint names."""
    kept = run.state[plugin.name]
    kept.setdefault("id", secrets.token_hex(4))
    tracker = _started(plugin, _arguments(plugin, run, kept["id"]))
    # wandb takes a step once and in order only. An evaluation that a resumed run makes up for belongs to a step that
    # is closed already; by its own axis it is shown where it belongs.
    tracker.run.define_metric("eval_step", hidden=True)
    tracker.run.define_metric("eval_*", step_metric="eval_step")

    def log(figures: Figures) -> None:
        if figures.evaluation:
            tracker.log(figures.values | {"eval_step": figures.step}, step=max(figures.step, tracker.run.step))
        else:
            tracker.log(figures.values, step=figures.step)

    def close(failed: bool) -> None:
        tracker.run.finish(exit_code=1) if failed else tracker.finish()

    def commit(step: int) -> None:
        if tracker.run.step == step:
            tracker.run.log({}, step=step, commit=True)

    client = Client(log, close, commit)
    if tracker.run.resumed:
        client.trained = tracker.run.step - 1
        client.evaluated = int(tracker.run.summary.get("eval_step", -1))
    return client


def _arguments(plugin: Wandb, run: Run, number: str) -> dict[str, Any]:
    given = {
        "name": name_of(run, plugin.run_name),
        "entity": plugin.entity,
        "tags": plugin.tags or None,
        "mode": plugin.mode,
        "dir": folder_of(run, plugin.dir, "."),
        "config": config_of(run),
        "id": number,
        "resume": "allow",
        "reinit": "create_new",
    }
    return {name: value for name, value in given.items() if value is not None}


def _started(plugin: Wandb, arguments: dict[str, Any]) -> WandBTracker:
    """Return a tracker with a run: offline where wandb has no key or finds no server."""
    import wandb

    tracker = WandBTracker(plugin.project, **arguments)
    try:
        tracker.start()
    except (wandb.errors.UsageError, wandb.errors.CommError, TimeoutError) as error:
        if plugin.mode == "offline" or os.environ.get("WANDB_MODE") == "offline":
            raise
        why = " ".join(str(error).split())[:200]
        print(f"hfx: warning: 'wandb' keeps the run offline ({why}); 'wandb sync' sends it later", file=sys.stderr)
        tracker = WandBTracker(plugin.project, **arguments | {"mode": "offline"})
        tracker.start()
    return tracker
