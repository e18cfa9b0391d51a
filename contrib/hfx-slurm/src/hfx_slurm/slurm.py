"""The launcher that submits the run to Slurm."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import ClassVar

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from hfx import Plugin, Problem, Run, RunResult, hookimpl
from hfx.launch import LAUNCHED


class Slurm(Plugin):
    """Submits the run to Slurm as one job, with a task for each process.

    Some time before its limit, and when it is preempted, the job saves, goes back to the queue and later goes on from
    the checkpoint. So does a job that lost a process; not one that made a mistake, which stays one. The output and
    `HFX_CACHE` have to be folders that every node sees.
    """

    unverified: ClassVar[str] = "seen at work on one machine without GPUs"
    partition: str | None = None
    """Slurm's partition; none: its default."""
    nodes: PositiveInt = 1
    """Nodes."""
    processes: PositiveInt | None = None
    """Processes on each node; none: one for each GPU, 1 without."""
    gpus: NonNegativeInt = 0
    """GPUs of each node."""
    cpus: PositiveInt | None = None
    """Cores of each process, and threads, unless `OMP_NUM_THREADS` says otherwise; none: Slurm's default."""
    memory_gb: PositiveFloat | None = None
    """Memory of each node, GiB; none: Slurm's default."""
    minutes: PositiveInt = 60
    """Slurm's time limit, each time the job runs."""
    account: str | None = None
    """The account that pays."""
    qos: str | None = None
    """Slurm's quality of service."""
    sbatch: dict[str, str | int | bool] = Field(default={})
    """More arguments of sbatch, by name: `{constraint: a100, exclusive: true}`."""
    requeue: NonNegativeInt = 3
    """How often the job goes back to the queue."""
    save_seconds: PositiveInt = 120
    """How long before its time limit the run is told to save; Slurm may be up to 60 seconds early."""
    wait: bool = True
    """Follow the job, and end as it ends; `false`: say its number and end at once."""
    poll_seconds: PositiveFloat = 5.0
    """How often Slurm is asked for the state of a job that is followed."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report what Slurm cannot do, before anything is submitted."""
        if _started(run):
            return
        config = run.config
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            yield Problem(
                f"'{self.name}' finds no 'sbatch' and 'srun' on this machine; call it where jobs are submitted"
            )
        if config.output is None and config.resume in ("never", "auto"):
            yield Problem(f"'{self.name}' needs one folder that all nodes see; add '--output'")
        if config.nproc != 1 or config.nnodes != "1" or config.rdzv is not None:
            yield Problem(
                f"'{self.name}' has options of its own in place of '--nproc', '--nnodes' and '--rdzv'; "
                f"'--{self.name}.processes' and '--{self.name}.nodes'"
            )
        if self.save_seconds >= 60 * self.minutes:
            yield Problem(
                f"'{self.name}' is to save {self.save_seconds} seconds before its limit of {self.minutes} minutes; "
                f"lower '--{self.name}.save-seconds', or raise '--{self.name}.minutes'"
            )

    @hookimpl
    def hfx_launch(self, run: Run, main: Callable[[Run], RunResult]) -> RunResult:
        """Call `main` in a task of the job; elsewhere submit the job, and return how it ended."""
        if _started(run):
            return main(run)
        from hfx_slurm.slurm_impl import launch

        return launch(run, self)


def _started(run: Run) -> bool:
    return LAUNCHED in os.environ or run.world.size > 1
