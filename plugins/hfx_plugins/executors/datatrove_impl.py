"""Parts of a preparation as tasks of datatrove's executors."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from loguru import logger

from hfx import DataError, HfxError

if TYPE_CHECKING:
    from hfx_plugins.executors.datatrove import Datatrove

QUEUE = ["squeue", "--noheader", "--states=all", "--format=%T", "--jobs"]
PATIENCE = 30
"""How often in a row Slurm may not say what becomes of a job: its controller may be busy."""
AGAIN = "Prepare again when it is mended: what is done is kept"
WAITING = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "SUSPENDED", "RESIZING", "REQUEUE_HOLD")


class Part(PipelineStep):  # type: ignore[misc]
    """One part of a stage: the whole pipeline of a task."""

    type = "hfx"
    name = "part of a stage"

    def __init__(self, work: Callable[[int], None]) -> None:
        super().__init__()
        self.work = work

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Work on the part that has the task's number."""
        with self.track_time("part"):
            self.work(rank)
        self.stat_update("parts", unit="task")


class _Slurm(SlurmPipelineExecutor):  # type: ignore[misc]
    """Leaves no job behind that adds up statistics: the folder is gone when the parts are put together."""

    def launch_merge_stats(self) -> None:
        """Do nothing."""


class _Local(LocalPipelineExecutor):  # type: ignore[misc]
    """Writes what every task tells into its log alone; of each that is done there is a line."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        return super()._run_for_rank(rank, local_rank + 1, node_rank)  # the first one's go to the terminal, too


def run(options: Datatrove, work: Callable[[int], None], number: int, folder: Path) -> None:
    """Run one task for each part, and wait for all.

    Raises:
        HfxError: a task failed, or no cluster can be reached.
    """
    common = {"pipeline": [Part(work)], "tasks": number, "logging_dir": str(folder.absolute() / "datatrove")}
    start = {"local": _local, "slurm": _slurm, "ray": _ray}[options.cluster]
    try:
        start(options, common)
    except HfxError:
        raise
    except Exception as error:
        raise DataError(
            f"'{options.name}': a task failed: {type(error).__name__}: {error}; its log is in "
            f"'{common['logging_dir']}'. {AGAIN}"
        ) from error


def _local(options: Datatrove, common: dict[str, Any]) -> None:
    workers = options.workers or len(os.sched_getaffinity(0))
    logger.disable(LocalPipelineExecutor.__module__)  # the sums over all tasks, which `stats.json` holds
    try:
        _Local(**common, workers=min(workers, common["tasks"])).run()
    finally:
        logger.enable(LocalPipelineExecutor.__module__)


def _ray(options: Datatrove, common: dict[str, Any]) -> None:
    import ray
    from datatrove.executor.ray import RayPipelineExecutor

    try:
        if not ray.is_initialized():
            ray.init(address="auto")
    except ConnectionError as error:
        raise DataError(f"'{options.name}' finds no Ray cluster; 'ray start --head', or set RAY_ADDRESS") from error
    RayPipelineExecutor(**common, workers=options.workers or -1, mem_per_cpu_gb=options.memory_gb).run()


def _slurm(options: Datatrove, common: dict[str, Any]) -> None:
    executor = _Slurm(
        **common,
        time=options.time,
        partition=options.partition,
        workers=options.workers or -1,
        mem_per_cpu_gb=options.memory_gb,
        qos="",
        job_name="hfx",
        # Slurm hands on the environment; the programs of this one have to be found in it.
        env_command=f"export PATH={Path(sys.executable).parent}:$PATH",
        sbatch_args=dict(options.sbatch),
    )
    try:
        executor.run()
    except FileNotFoundError as error:
        raise DataError(f"'{options.name}' finds no Slurm on this machine: no program '{error.filename}'") from error
    silent = 0
    while executor.get_incomplete_ranks():
        queued = _queued(executor.job_id)
        silent = silent + 1 if isinstance(queued, str) else 0
        if silent == PATIENCE:
            raise DataError(
                f"'{options.name}': Slurm does not say what becomes of job {executor.job_id} ({queued}); its tasks may "
                f"go on. {AGAIN}"
            )
        if queued is False and (failed := executor.get_incomplete_ranks()):
            raise DataError(
                f"'{options.name}': {len(failed)} of {common['tasks']} tasks failed, the first is {failed[0]}; "
                f"their logs are in '{common['logging_dir']}'. {AGAIN}"
            )
        time.sleep(options.poll_seconds)


def _queued(job: Any) -> bool | str:
    """Return whether tasks of the job wait or run; one that Slurm has forgotten has ended. Or why it does not say."""
    told = subprocess.run([*QUEUE, str(job)], capture_output=True, text=True, check=False)
    if told.returncode and "Invalid job id" not in told.stderr:
        return " ".join(told.stderr.split()) or f"squeue exited with {told.returncode}"
    return told.returncode == 0 and any(state in WAITING for state in told.stdout.split())
