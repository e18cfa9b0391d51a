"""Cleaning and deduplication as a datatrove pipeline."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from hfx import DataError, Plugin, Problem, Rows, hookimpl


class Datatrove(Plugin):
    """Clean and deduplicate in many tasks of a datatrove pipeline: on this machine, on Slurm or on Ray.

    The source is read once, into the cache; each task then works on its part of the rows, and the parts are put
    together in order. So rows, report and cache are those of a preparation without it. The cache (`HFX_CACHE`) has to
    be a folder that every machine sees. Tasks that are done stay done when one fails, and logs lie beside them.
    """

    cluster: Literal["local", "slurm", "ray"] = "local"
    """Where tasks run; `ray` takes the cluster that `RAY_ADDRESS` or `ray start` names."""
    tasks: PositiveInt = 8
    """Parts that the rows are cut into."""
    workers: PositiveInt | None = None
    """Tasks at a time; none: on this machine as many as it has cores, on a cluster all."""
    memory_gb: PositiveInt = 2
    """Memory of a task on a cluster, GiB."""
    partition: str | None = None
    """Slurm's partition; Slurm needs one."""
    time: str = "24:00:00"
    """Slurm's limit for a task."""
    sbatch: dict[str, str] = Field(default={})
    """More arguments of sbatch, by name: `{account: research}`."""
    poll_seconds: PositiveFloat = 10.0
    """How often Slurm is asked for the state of the tasks."""

    @hookimpl
    def hfx_check(self) -> Iterator[Problem]:
        """Report a missing package or partition before any data is read."""
        needed = {"datatrove": "'hfx[scale]'"} | ({"ray": "ray"} if self.cluster == "ray" else {})
        for package, named in needed.items():
            if find_spec(package) is None:
                yield Problem(f"'{self.name}' needs the package {package}; pip install {named}")
        if self.cluster == "slurm" and self.partition is None:
            yield Problem(f"'{self.name}' needs a partition of Slurm; '--{self.name}.partition NAME'")

    @hookimpl(wrapper=True)
    def hfx_source(self) -> Generator[None, Rows, Rows]:
        """Return the rows with this executor for their steps."""
        rows = yield
        if not rows.source.indexed:
            raise DataError(
                f"'{self.name}' prepares data before training, a stream is prepared meanwhile; drop one of them"
            )
        return rows.on(self)

    def run(self, work: Callable[[int], None], number: int, folder: Path) -> None:
        """Work on all parts as a pipeline of so many tasks."""
        from hfx_plugins.executors.datatrove_impl import run

        run(self, work, number, folder)
