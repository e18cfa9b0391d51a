"""A run of MLflow, over accelerate's tracker."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

_DEFAULTS = {
    # A training step does not wait four minutes, as it would by MLflow's seven attempts: figures that do not get
    # through are kept and sent later.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)  # before MLflow is imported

import mlflow  # noqa: E402
from accelerate.tracking import MLflowTracker  # noqa: E402

from hfx_plugins.tracking.told_impl import Figures, config_of, flat, folder_of, name_of  # noqa: E402
from hfx_plugins.tracking.trackers_impl import Client  # noqa: E402

if TYPE_CHECKING:
    from hfx import Run
    from hfx_plugins.tracking.mlflow import Mlflow

_LONGEST = 500
"""Characters of a parameter's value: the least that any MLflow server takes."""


def open_run(plugin: Mlflow, run: Run) -> Client:
    """Begin a run, or go on with the one that the checkpoint names."""
    kept, folder = run.state[plugin.name], None
    if uri := plugin.uri or os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri(uri)
    else:
        folder = folder_of(run, None, "mlflow")
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    tracker = MLflowTracker(
        experiment_name=plugin.project,
        logging_dir=(folder / "artifacts").as_uri() if folder else None,
        run_id=kept.get("id"),
        run_name=name_of(run, plugin.run_name),
    )
    tracker.start()
    if "id" not in kept:
        tracker.store_init_configuration({n: str(v)[:_LONGEST] for n, v in flat(config_of(run)).items()})
        kept["id"] = tracker.active_run.info.run_id
    number = kept["id"]

    def log(figures: Figures) -> None:
        tracker.log(figures.values, step=figures.step, run_id=number)

    def close(failed: bool) -> None:
        if failed:
            mlflow.end_run("FAILED")
        tracker.finish()

    return Client(log, close, trained=_last(number, "loss"), evaluated=_last(number, "eval_loss"))


def _last(number: str, metric: str) -> int:
    """Return the last step of a metric, or -1."""
    history = mlflow.MlflowClient().get_metric_history(number, metric)
    return max((point.step for point in history), default=-1)
