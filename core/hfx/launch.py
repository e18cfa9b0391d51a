"""Which process this is among those that somebody started, and how it is asked to stop."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from hfx.errors import UsageError
from hfx.protocols import World

if TYPE_CHECKING:
    from hfx.run import Run

STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")
"""Each is answered with a checkpoint at the next step's boundary, or while a block of a stream is waited for; a second
SIGINT ends at once."""


LAUNCHED = "HFX_JOB"
"""Set in processes that a launcher of hfx started: a name for this start of them."""


class StoppedWaiting(Exception):  # noqa: N818  reads as what happened
    """The run was told to end while it waited for a block of a stream; `code` is what the ranks add up to."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def world_from(environment: MutableMapping[str, str] = os.environ, machines: str = "1") -> World:
    """Return this process's place, from what torchrun, accelerate or Slurm set.

    Under Slurm's `srun` it sets the variables that torch reads (RANK, MASTER_ADDR, ...), too; but not in a shell that
    was opened, nor where each of several `machines` (`nnodes`) has a task, which is to start the ranks there.

    Raises:
        UsageError: the variables contradict each other.
    """
    if "RANK" not in environment and int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        tasks, nodes = (environment.get(f"SLURM_STEP_NUM_{what}") for what in ("TASKS", "NODES"))
        starts_ranks = machines != "1" and tasks == nodes
        if not starts_ranks and not _in_a_shell(environment):
            environment.update(_from_slurm(environment))
    try:
        rank, size, local = (
            int(environment.get(n, d)) for n, d in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        )
    except ValueError as error:
        raise UsageError(f"RANK, WORLD_SIZE and LOCAL_RANK have to be numbers: {error}; unset them") from error
    if not 0 <= rank < size:
        raise UsageError(f"RANK is {rank} and WORLD_SIZE {size}; start the ranks with one launcher, or unset both")
    return World(rank, size, local)


def one_task_a_node(world: World, environment: Mapping[str, str] = os.environ) -> bool:
    """Say whether `srun` started the ranks, and one on each node; torchrun's, say, may stand under such a task, too."""
    found = [environment.get(f"SLURM_{name}") for name in ("STEP_NUM_TASKS", "STEP_NUM_NODES", "PROCID")]
    return found == [str(world.size), str(world.size), str(world.rank)]


def _in_a_shell(environment: Mapping[str, str]) -> bool:
    """Say whether this process was started in a shell that `srun --pty` opened, and is no task itself."""
    if "SLURM_PTY_PORT" not in environment or environment.get("SLURM_TASK_PID") == str(os.getpid()):
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))  # a task of another `srun` in that shell has no terminal
    except OSError:
        return False
    return True


def _from_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """Return torch's variables for a task that `srun` started; a batch script itself is no such task."""
    first = re.match(r"([^,\[]+)(?:\[(\d+))?", environment["SLURM_STEP_NODELIST"])
    assert first is not None, "a list of nodes begins with one"
    job, step = (environment.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    # Two steps of one job may run side by side; above are the ports that systems give away.
    port = 20_000 + (int(job) * 8 + (int(step) if step.isdecimal() else 0)) % 12_000
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "MASTER_ADDR": environment.get("MASTER_ADDR", first[1] + (first[2] or "")),
        "MASTER_PORT": environment.get("MASTER_PORT", str(port)),
    }


@contextmanager
def stopping_on_signals(run: Run) -> Iterator[None]:
    """Turn signals into a request to stop; only the main thread may, so elsewhere (notebooks) Ctrl-C stays as it is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    interrupted = False

    def request(number: int, _: FrameType | None) -> None:
        nonlocal interrupted
        name = signal.Signals(number).name
        if name == "SIGINT" and (run.signalled or interrupted):
            raise KeyboardInterrupt
        interrupted = interrupted or name == "SIGINT"
        run.request_stop(name)

    before = {name: signal.signal(getattr(signal, name), request) for name in STOP_SIGNALS}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
