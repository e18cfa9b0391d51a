"""A run as a job of Slurm: submitted with submitit, followed by what Slurm and the run's processes say."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import clean_env

from hfx import HfxError, RunResult
from hfx.claim import LOGS, leave_nothing
from hfx.job import RESULT_FILE, Job, failures, result
from hfx.resume import RUN_FILE
from hfx_slurm.task import Task, state_of

if TYPE_CHECKING:
    from hfx import Run
    from hfx_slurm.slurm import Slurm

WAITING = frozenset(
    ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT",
     "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT", "REVOKED", "UNKNOWN")
)  # fmt: skip
_LATE_SECONDS = 2.0
"""A network's file system may show a file this long after it was written."""


def launch(run: Run, options: Slurm) -> RunResult:
    """Submit the run, and return how it ended, or at once where nobody waits.

    Raises:
        HfxError: the first failure of a process, as it was there; or what Slurm says.
    """
    job = Job.of(run)
    logs = (run.output / LOGS).absolute()
    logs.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir=logs))
    job.write(folder)
    try:
        number = _submit(folder, options)
    except BaseException:
        shutil.rmtree(folder)
        leave_nothing(run.output)
        raise
    log = folder / f"{number}_0_log.out"
    told = f"hfx: job {number} is submitted; it writes to '{log}', and 'scancel {number}' ends it"
    print(told, file=sys.stderr, flush=True)
    if not options.wait:
        return RunResult(run.output, {}, 0)
    try:
        state = _follow(number, log, options.poll_seconds)
    except KeyboardInterrupt:
        print(f"hfx: job {number} goes on without you; 'scancel {number}' ends it", file=sys.stderr)
        raise
    return _ended(run, folder, number, state)


def _submit(folder: Path, options: Slurm) -> str:
    executor = SlurmExecutor(folder=folder)
    said = io.StringIO()
    try:
        executor.update_parameters(**_parameters(folder, options))
        # submitit prints what sbatch says of a mistake, and raises it, too.
        with _outside_of_jobs(), redirect_stderr(said):
            return str(executor.submit(Task(folder)).job_id)
    except (FailedJobError, FailedSubmissionError) as error:
        told = " ".join((said.getvalue() or str(error)).split())
        raise HfxError(f"Slurm refuses the job: {told}; look at the options of '{options.name}'") from error


def _parameters(folder: Path, options: Slurm) -> dict[str, Any]:
    processes = options.processes or max(1, options.gpus)
    place = shlex.quote(str(folder))
    # A task that failed takes the others with it: they would wait for it.
    srun = ["--kill-on-bad-exit=1"]
    given: dict[str, Any] = {
        "job_name": "hfx",
        "partition": options.partition,
        "nodes": options.nodes,
        "ntasks_per_node": processes,
        "gpus_per_node": options.gpus or None,
        "cpus_per_task": options.cpus,
        "mem": f"{int(options.memory_gb * 1024)}MB" if options.memory_gb else None,
        "time": options.minutes,
        "account": options.account,
        "qos": options.qos,
        "wckey": None,
        "stderr_to_stdout": True,
        "srun_args": [*srun, f"--cpus-per-task={options.cpus}"] if options.cpus else srun,
        "setup": [f"rm -f {place}/failure-*.json {place}/{RESULT_FILE}"],
        "teardown": [
            f"{shlex.quote(sys.executable)} -m hfx_slurm.task {place} {options.requeue} $?",
            "exit $?",
        ],
        "additional_parameters": {
            "signal": f"USR1@{options.save_seconds}",
            "requeue": True,
            **{name.replace("_", "-"): value for name, value in options.sbatch.items()},
        },
    }
    return {name: value for name, value in given.items() if value is not None or name == "wckey"}


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide the variables of a job that this process may be in: the new one would take them for its own."""
    conf = os.environ.get("SLURM_CONF")
    with clean_env():
        if conf is not None:
            os.environ["SLURM_CONF"] = conf
        yield


def _follow(number: str, log: Path, poll_seconds: float) -> str | None:
    """Print what the job writes until it has left the queue, and return its last state."""
    seen = 0
    while True:
        state = state_of(number)
        if state not in WAITING:
            time.sleep(_LATE_SECONDS if not log.exists() else 0)
        seen = _show(log, seen)
        if state not in WAITING:
            return state
        time.sleep(poll_seconds)


def _show(log: Path, seen: int) -> int:
    """Print the whole lines of a log beyond a place, and return the place behind them."""
    try:
        with log.open("rb") as file:
            file.seek(seen)
            new = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return seen
    whole = new[: new.rfind(b"\n") + 1]
    lines = whole.decode("utf-8", "replace").splitlines(keepends=True)
    print(*(line for line in lines if not line.startswith("submitit ")), sep="", end="", file=sys.stderr, flush=True)
    return seen + len(whole)


def _ended(run: Run, folder: Path, number: str, state: str | None) -> RunResult:
    if told := failures(folder):
        error = told[0].error()
        if not (run.output / RUN_FILE).exists():
            shutil.rmtree(folder)
        leave_nothing(run.output)
        raise error
    if (folder / RESULT_FILE).is_file():
        return result(folder, run.output)
    ended = f"job {number} ended ({state or 'Slurm has forgotten how'})"
    if not (folder / f"{number}_0_log.out").exists():
        raise HfxError(
            f"{ended} before it wrote a word; choose an '--output' that all nodes see: '{folder}' may be none"
        )
    again = f"; go on with 'hfx train --resume {run.output}'" if (run.output / "checkpoints").exists() else ""
    raise HfxError(f"{ended} and no process said why; look into '{folder}'{again}")
