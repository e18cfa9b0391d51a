"""The launcher that starts the run on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from hfx import Plugin, Problem, Run, RunResult, hookimpl
from hfx.launch import LAUNCHED

STOP_FILE = "HFX_RAY_STOP_FILE"
"""Names the file that tells the run to save and end, in the environment of a worker."""


class Ray(Plugin):
    """Starts the run's processes as workers of Ray Train, on a cluster that is there.

    A worker that dies takes the others with it, and all begin again at the newest checkpoint. The output and
    `HFX_CACHE` have to be folders that every node sees.
    """

    unverified: ClassVar[str] = "seen at work on one machine without GPUs"
    workers: PositiveInt = 1
    """Processes of the run, on whatever nodes Ray chooses."""
    address: str | None = None
    """Where the cluster is, `HOST:PORT`; none: `RAY_ADDRESS`, or the one that this machine is part of."""
    cpus: PositiveFloat = 1.0
    """Cores of each worker, and threads, unless `OMP_NUM_THREADS` says otherwise."""
    gpus: NonNegativeFloat = 0.0
    """GPUs of each worker."""
    resources: dict[str, float] = Field(default={})
    """More of what each worker needs, by Ray's names: `{"accelerator_type:A100": 0.001}`."""
    restarts: NonNegativeInt = 3
    """How often the run is begun again after a worker was killed or lost; not after a mistake, which stays one."""
    environment: list[str] = Field(default=[])
    """Names of variables that the workers get beside `HFX_...` and `HF_...`; those with secrets only if named here."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report what Ray cannot do, before anything is started."""
        if _started(run):
            return
        config = run.config
        if config.output is None and config.resume in ("never", "auto"):
            yield Problem(f"'{self.name}' needs one folder that all nodes see; add '--output'")
        if config.nproc != 1 or config.nnodes != "1" or config.rdzv is not None:
            yield Problem(
                f"'{self.name}' has an option of its own in place of '--nproc', '--nnodes' and '--rdzv'; "
                f"'--{self.name}.workers'"
            )
        if missing := [name for name in self.environment if name not in os.environ]:
            yield Problem(f"'{self.name}' is to hand on '{missing[0]}', which is not set; set it, or leave it out")

    @hookimpl
    def hfx_step_end(self, run: Run) -> None:
        """End the run where the launcher was told to; workers run in a thread, which signals do not reach."""
        file = os.environ.get(STOP_FILE)
        if file and run.world.is_main and Path(file).exists():
            run.request_stop(Path(file).read_text(encoding="utf-8"))

    @hookimpl
    def hfx_launch(self, run: Run, main: Callable[[Run], RunResult]) -> RunResult:
        """Call `main` in a worker; elsewhere start the workers, and return how the run ended."""
        if _started(run):
            return main(run)
        from hfx_ray.ray_impl import launch

        return launch(run, self)


def _started(run: Run) -> bool:
    return LAUNCHED in os.environ or run.world.size > 1
