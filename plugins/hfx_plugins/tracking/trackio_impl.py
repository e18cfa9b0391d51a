"""A run of Trackio, over accelerate's tracker."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.tracking import TrackioTracker

from hfx import ConfigError
from hfx_plugins.tracking.told_impl import Figures, config_of, name_of
from hfx_plugins.tracking.trackers_impl import Client

if TYPE_CHECKING:
    from hfx import Run
    from hfx_plugins.tracking.trackio import Trackio


def open_run(plugin: Trackio, run: Run) -> Client:
    """Begin a run, or go on with the one that the checkpoint names."""
    _place(plugin.dir)
    kept = run.state[plugin.name]
    resumed, name = "run" in kept, kept.setdefault("run", name_of(run, plugin.run_name))
    arguments: dict[str, Any] = {"name": name, "config": config_of(run), "resume": "allow" if resumed else "never",
                                 "embed": False}  # fmt: skip
    if plugin.space_id:
        arguments |= {"space_id": plugin.space_id, "private": plugin.private}
    tracker = TrackioTracker(plugin.project, **arguments)
    tracker.start()
    client = Client(lambda figures: _log(tracker, figures), lambda failed: _finish())
    if resumed and not plugin.space_id:
        client.trained, client.evaluated = _last(plugin.project, tracker.run)
    return client


def _log(tracker: TrackioTracker, figures: Figures) -> None:
    tracker.log(figures.values, step=figures.step)


def _finish() -> None:
    import trackio

    trackio.finish()  # accelerate's way leaves the run to be finished again, with a line on stdout, at the exit


def _place(folder: Path | None) -> None:
    """Set where Trackio writes, which it reads once, when it is imported.

    Raises:
        ConfigError: this process used it with another folder before.
    """
    if folder is None:
        return
    if "trackio" not in sys.modules:
        os.environ["TRACKIO_DIR"] = str(folder.absolute())
    from trackio.utils import TRACKIO_DIR

    if Path(TRACKIO_DIR).absolute() != folder.absolute():
        raise ConfigError(f"trackio writes into '{TRACKIO_DIR}' in this process; leave out 'trackio.dir'")


def _last(project: str, run: Any) -> tuple[int, int]:
    """Return the last steps whose figures of training and of evaluations the database has, or -1."""
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs(project, run.name, run_id=run.id)
    trained = [row["step"] for row in rows if "loss" in row]
    evaluated = [row["step"] for row in rows if "eval_loss" in row]
    return max(trained, default=-1), max(evaluated, default=-1)
