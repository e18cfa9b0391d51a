"""What runs on Slurm's nodes: a task for each process, and after them a look at how they ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hfx.job import RESULT_FILE, failures, result

EXIT_CODES = {"SIGTERM": 143, "SIGUSR1": 75}
"""Those of `hfx train` for a run that saved and ended early."""


@dataclass(frozen=True)
class Task:
    """A process of the job, as submitit calls it."""

    folder: Path
    """Where the job is written."""

    def __call__(self) -> None:
        """Run the job as one of its processes; its failure lies in the folder."""
        # submitit lets SIGTERM pass by; before the first step there is nothing to save.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        from hfx.job import main

        if code := main(self.folder):
            sys.exit(code)


def state_of(job: str) -> str | None:
    """Return the state of a job; None for one that Slurm has forgotten, `UNKNOWN` where it does not answer."""
    told = subprocess.run(["scontrol", "show", "job", job, "--oneliner"], capture_output=True, text=True, check=False)
    if told.returncode:
        return None if "Invalid job id" in told.stderr else "UNKNOWN"
    found = re.search(r"\bJobState=([A-Z_]+)", told.stdout)
    return found[1] if found else "UNKNOWN"


def after(folder: Path, requeue: int, code: int) -> int:
    """Put the job back into the queue where that may help; return the exit code of the job.

    Args:
        folder: Where the job is written.
        requeue: How often it may go back.
        code: That of the tasks.
    """
    ended = result(folder, folder) if (folder / RESULT_FILE).is_file() else None
    if ended and ended.stopped not in EXIT_CODES:
        return code
    told = failures(folder)
    if not ended and told and not told[0].passes:
        return 1
    code = EXIT_CODES[ended.stopped] if ended and ended.stopped else code or 1
    job, before = os.environ["SLURM_JOB_ID"], int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    # A job that somebody cancelled stays cancelled; `scontrol requeue` would take it, too.
    if before >= requeue or state_of(job) != "RUNNING":
        return code
    why = f"the run saved at step {ended.step}" if ended else told[0].message if told else "a process was killed"
    print(f"hfx: {why}; job {job} goes back to the queue, {requeue - before - 1} more times", flush=True)
    return subprocess.run(["scontrol", "requeue", job], check=False).returncode or code


if __name__ == "__main__":
    sys.exit(after(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
