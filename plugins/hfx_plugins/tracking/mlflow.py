"""Figures for MLflow."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from hfx import Problem, Run, hookimpl
from hfx_plugins.tracking.told_impl import public_address
from hfx_plugins.tracking.trackers_impl import Client, Tracker


class Mlflow(Tracker):
    """Store a run's figures as metrics and its config as parameters of an MLflow run.

    User and password of a server are MLflow's own affair (`MLFLOW_TRACKING_USERNAME`, `MLFLOW_TRACKING_PASSWORD`,
    `MLFLOW_TRACKING_TOKEN`); hfx neither takes nor writes them. A resumed run goes on in the same MLflow run.
    """

    project: str = "hfx"
    """The experiment; `MLFLOW_EXPERIMENT_NAME` in the environment goes before it."""
    run_name: str | None = None
    """Name of the run; none: that of the output folder."""
    uri: str | None = None
    """Server or database; none: what `MLFLOW_TRACKING_URI` says, else `mlflow/mlflow.db` in the run's output."""

    @hookimpl
    def hfx_check(self) -> Iterator[Problem]:
        """Report a missing package, and a password that would be written down."""
        if find_spec("mlflow") is None:
            yield Problem("'mlflow' needs the package 'mlflow-skinny'; run: pip install 'hfx[mlflow]'")
        if self.uri is not None and self.uri.startswith("http") and public_address(self.uri) != self.uri:
            yield Problem(
                "'mlflow.uri' holds a password or a query, which the run's files would keep; "
                "put them into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )

    def _open(self, run: Run, first: int) -> Client:
        from hfx_plugins.tracking.mlflow_impl import open_run

        return open_run(self, run)
