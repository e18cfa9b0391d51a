"""The processes of one machine under torch's elastic agent, which also meets the agents of other machines."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import psutil
import torch
import torch.distributed as dist
from torch.distributed.elastic.agent.server.api import WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousParameters,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from hfx import RunResult
from hfx.cgroups import cores
from hfx.claim import LOGS, leave_nothing
from hfx.collective import expire, first_line
from hfx.distributed import SILENCE
from hfx.errors import CollectiveError, DeviceMemoryError, HfxError
from hfx.job import Job, failures, forget_failures, result
from hfx.launch import LAUNCHED, STOP_SIGNALS
from hfx_plugins.launchers.address_impl import LOOPBACK, Address, own_address

if TYPE_CHECKING:
    from torch.distributed.elastic.agent.server.api import RunResult as AgentResult
    from torch.distributed.elastic.agent.server.api import WorkerGroup

    from hfx import Run
    from hfx_plugins.launchers.local import Local

PORT = 29400
MICRO = "hfx/micro_batch_size"
"""Before the keys of the micro-batches to go on with, one a machine, where memory ran out."""


def processes(nproc: int | str) -> int:
    """Return how many processes there are to be on this machine."""
    return max(1, torch.accelerator.device_count()) if nproc == "auto" else int(nproc)


def launch(run: Run, count: int, options: Local) -> RunResult:
    """Start the processes, begin again while that may help, and return how the run ended.

    Raises:
        HfxError: the first failure of a process, as it was there.
        CollectiveError: the machines did not find each other.
        ConfigError: where they are to meet is not known.
    """
    job = Job.of(run)
    own = own_address((run.config.rdzv or LOOPBACK).partition(":")[0])
    logs = run.output / LOGS
    with _folder() as folder, _kept_if_begun(run.output, logs), _environment(_for_processes(options, count, own)):
        job.write(folder)
        try:
            agent = _agent(run, count, options, folder, own)
            with agent.forwarding():
                ended = agent.run()
        except (RendezvousError, dist.DistError) as error:
            raise _lost(run.config.rdzv, options.wait_minutes, error) from error
        except ToldToEnd as told:
            return _told_to_end(run, told)
        if ended.is_failed():
            cause, _ = agent.cause(ended)
            if isinstance(cause, ToldToEnd):
                return _told_to_end(run, cause)
            raise cause
        return result(folder, run.output)


def _told_to_end(run: Run, told: ToldToEnd) -> RunResult:
    print(f"hfx: {told}", file=sys.stderr)
    return RunResult(run.output, {}, 0, told.signal)


def _lost(place: str | None, minutes: float, error: Exception) -> CollectiveError:
    if isinstance(error, RendezvousClosedError):
        return CollectiveError("another machine ended the run; what that one says is the reason")
    if isinstance(error, RendezvousTimeoutError):
        return CollectiveError(
            f"the machines did not meet at '{place}' within {minutes:g} minutes; start the same command on each, "
            f"and see that the port is open ({first_line(error)})"
        )
    return CollectiveError(
        f"this machine lost the way to '{place}', where the machines meet; look at the network, then resume "
        f"({first_line(error)})"
    )


def _nowhere(place: str | None, error: Exception) -> CollectiveError:
    """Return what is told where the machines cannot even begin to meet."""
    taken = "in use" in f"{error} {error.__cause__}"
    what = "has that port in use" if taken else "did not answer within a minute"
    todo = "choose another port" if taken else "start that machine first, and see that the port is open"
    return CollectiveError(f"'{place}', where the machines meet, {what}; {todo} ({first_line(error)})")


def _agent(run: Run, count: int, options: Local, folder: Path, own: Address) -> Agent:
    low, _, high = run.config.nnodes.partition(":")
    host, _, port = (run.config.rdzv or f"{LOOPBACK}:0").partition(":")
    parameters = RendezvousParameters(
        backend="c10d",
        endpoint=f"{host}:{port or PORT}",
        # All machines name one run alike.
        run_id=str(run.output) if run.config.rdzv else folder.name,
        min_nodes=int(low),
        max_nodes=int(high or low),
        local_addr=own.address,
        timeout=options.wait_minutes * 60,
        join_timeout=int(options.wait_minutes * 60),
        is_host=own.is_meeting,
    )
    try:
        handler = get_rendezvous_handler(parameters)
    except RendezvousConnectionError as error:
        raise _nowhere(run.config.rdzv, error) from error
    expire(int(port or PORT), SILENCE)
    spec = WorkerSpec(
        role="rank",
        local_world_size=count,
        entrypoint=sys.executable,
        args=("-m", "hfx.job", str(folder)),
        rdzv_handler=handler,
        max_restarts=options.restarts,
        monitor_interval=0.1,
        local_addr=own.address,
    )
    return Agent(spec, folder)


class ToldToEnd(Exception):  # noqa: N818  reads as what happened
    """A process was told to end while it had no step to finish: it prepared, or exported."""

    def __init__(self, who: str, name: str) -> None:
        super().__init__(f"{who} was told to end by {name} and had no step to finish; run it again to go on")
        self.signal = name


class Agent(LocalElasticAgent):
    """Torch's agent, which begins again only where that may help, and tells why."""

    def __init__(self, spec: WorkerSpec, folder: Path) -> None:
        super().__init__(spec, _NoLogs())
        self._folder = folder
        self._told_to_end: str | None = None
        """The signal."""
        self._smaller: int | None = None

    def _monitor_workers(self, worker_group: WorkerGroup) -> AgentResult:
        seen: AgentResult = super()._monitor_workers(worker_group)
        if seen.is_failed():
            cause, may_pass = self.cause(seen)
            smaller = cause.micro_batch_size if isinstance(cause, DeviceMemoryError) else None
            if smaller and smaller < (self._smaller or smaller + 1) and not self._told_to_end:
                self._remaining_restarts += 1  # the agent takes one off
                self._smaller = smaller
                again = f"all begin again at the newest checkpoint, with 'micro_batch_size' {smaller}"
                print(f"hfx: {cause}; {again}", file=sys.stderr, flush=True)
            elif self._told_to_end or isinstance(cause, ToldToEnd) or not may_pass:
                self._remaining_restarts = 0
            elif self._remaining_restarts:
                left = self._remaining_restarts - 1
                again = f"all begin again at the newest checkpoint, {left} more times"
                print(f"hfx: {cause}; {again}", file=sys.stderr, flush=True)
        return seen

    def _end_if_told(self) -> None:
        """End while no process is there that could save and end: this machine waits for others, or begins again."""
        if self._told_to_end:
            raise ToldToEnd("this machine", self._told_to_end)

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        self._end_if_told()
        # Torch tells once where the processes meet; a machine that comes to a later start would wait for it in vain.
        handler: Any = worker_group.spec.rdzv_handler
        handler._bootstrap_store_info = None
        super()._rendezvous(worker_group)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self._end_if_told()
        forget_failures(self._folder)
        # One name for this start on all machines: not every one is counted as a restart.
        store: Any = worker_group.store
        if worker_group.group_rank == 0:
            store.set("hfx/start", uuid.uuid4().hex)
        os.environ[LAUNCHED] = store.get("hfx/start").decode()
        self._agree_on_micro_batch(store, worker_group.group_rank or 0, worker_group.group_world_size or 1)
        started: dict[int, Any] = super()._start_workers(worker_group)
        return started

    def _agree_on_micro_batch(self, store: Any, rank: int, machines: int) -> None:
        """Let all machines begin with the smallest micro-batch that memory ran out on for one of them."""
        store.set(f"{MICRO}/{rank}", str(self._smaller or 0))
        told = [int(store.get(f"{MICRO}/{machine}")) for machine in range(machines)]
        self._smaller = min(filter(None, told), default=None)
        if self._smaller:
            replace(Job.read(self._folder), micro_batch_size=self._smaller).write(self._folder)

    def cause(self, seen: AgentResult) -> tuple[BaseException, bool]:
        """Return the failure that the others followed from, and whether beginning again may help."""
        told = failures(self._folder)
        if told and told[0].kind != CollectiveError.__name__:
            return told[0].error(), told[0].passes
        failed = sorted(seen.failures.items())
        # What still lived then was ended by the agent: by SIGTERM, or by SIGKILL half a minute later where it hung.
        first = min(failure.timestamp for _, failure in failed)
        signals = {
            rank: signal.Signals(-failure.exitcode)
            for rank, failure in failed
            if failure.exitcode < 0 and failure.timestamp <= first + 1
        }
        for rank, number in sorted(signals.items(), key=lambda pair: (pair[1] is signal.SIGTERM, pair[0])):
            if number is signal.SIGTERM and told:
                break
            if number.name in STOP_SIGNALS:
                return ToldToEnd(f"rank {rank}", number.name), False
            why = "; the system does that where memory is short" if number is signal.SIGKILL else ""
            return HfxError(f"rank {rank} was ended by {number.name}{why}"), True
        if told:
            return told[0].error(), told[0].passes
        ended = ", ".join(f"rank {rank} with {failure.exitcode}" for rank, failure in failed)
        return HfxError(f"processes ended without a word ({ended}); look into '{LOGS}' of the run's folder"), True

    @contextmanager
    def forwarding(self) -> Iterator[None]:
        """Pass signals on to the processes, which save and end by themselves; a later SIGINT ends them at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def forward(number: int, _: FrameType | None) -> None:
            passed = signal.SIGTERM if number == signal.SIGHUP else signal.Signals(number)
            self._told_to_end = passed.name
            for pid in self._pcontext.pids().values() if self._pcontext else ():
                if psutil.pid_exists(pid):
                    os.kill(pid, passed)
            if self._worker_group.state in (WorkerState.INIT, WorkerState.STOPPED):
                self._end_if_told()

        # The agent would turn them into an exception, and kill what does not end soon.
        names = [*STOP_SIGNALS, *(["SIGHUP"] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else [])]
        before = {name: signal.signal(getattr(signal, name), forward) for name in names}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(getattr(signal, name), handler)

    def run(self, role: str = "rank") -> AgentResult:
        """Run until all processes ended; then leave the place where the machines meet."""
        try:
            ended: AgentResult = super().run(role)
            return ended
        finally:
            self._rdzv_handler.shutdown()


class _NoLogs(LogsSpecs):
    """Processes write where this one does, or where they choose to."""

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        nowhere = dict.fromkeys(envs, "")
        return LogsDest(nowhere, dict(nowhere), {}, {}, dict.fromkeys(envs, os.devnull))

    @property
    def root_log_dir(self) -> str:
        return os.devnull


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="hfx-job-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _kept_if_begun(output: Path, logs: Path) -> Iterator[None]:
    """Keep the processes' output where a run began; one that was refused leaves nothing."""
    logs.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        leave_nothing(output)


def _for_processes(options: Local, count: int, own: Address) -> dict[str, str]:
    """Return what the processes are to find in their environment, where the user did not say otherwise."""
    try:
        usable, _ = cores()
    except (OSError, ValueError):  # a limit that may not be read
        usable = os.cpu_count() or 1
    wanted = {"OMP_NUM_THREADS": str(max(1, int(usable) // count))}
    if own.interface:
        wanted["GLOO_SOCKET_IFNAME"] = own.interface
    mine = {"TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGQUIT"}  # the agent leaves the others to `forwarding`
    if options.threads is not None:
        mine["OMP_NUM_THREADS"] = str(options.threads)
    return {name: value for name, value in wanted.items() if name not in os.environ} | mine


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in (*values, LAUNCHED)}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
