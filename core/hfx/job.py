"""A job: what a launcher hands to the processes it starts, and how one of them ended.

launcher                                     each process, with RANK, WORLD_SIZE, MASTER_ADDR ... set
job = Job.of(run)          -> job.json  ->   python -m hfx.job FOLDER, or `Job.read(folder).run()`
result(folder)             <-  result.json, result-RANK.json on other machines, or failure-RANK.json
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from hfx import errors
from hfx.claim import LOGS
from hfx.errors import (
    CollectiveError,
    DeviceMemoryError,
    HfxError,
    IncompatibleError,
    PluginError,
    RemoteError,
    UsageError,
)
from hfx.launch import LAUNCHED
from hfx.protocols import RunResult
from hfx.redact import redacting

if TYPE_CHECKING:
    from hfx.resolve import Resolved
    from hfx.run import Run

JOB_FILE = "job.json"
RESULT_FILE = "result.json"
_NO_PART = ("nproc", "nnodes", "rdzv")


@dataclass(frozen=True)
class Job:
    """One run, described so that other processes make the same of it."""

    config: dict[str, Any]
    """The resolved config, plugins included: what `run.yaml` holds."""
    plugins: list[list[str]]
    """Name, package and version of every active plugin."""
    micro_batch_size: int | None = None
    """The largest micro-batch, where memory ran out with a larger one; `run.yaml` keeps what was asked for."""
    judged: dict[str, Any] | None = None
    """What is evaluated instead of trained, if it is; see `evaluator.py`."""
    origins: dict[str, str] = field(default_factory=dict)
    """Where each value came from, by path, for whoever looks at the run later."""

    @classmethod
    def of(cls, run: Run) -> Job:
        """Return the job of a run.

        Raises:
            IncompatibleError: a plugin was given as an object, which cannot be handed to other processes.
        """
        from hfx.written import to_yaml

        if objects := [active.name for active in run.active if not active.registered]:
            raise IncompatibleError(
                f"'{objects[0]}' was given as an object, which other processes do not have; offer its class as an "
                "entry point, or start the script itself with torchrun"
            )
        config = {key: value for key, value in yaml.safe_load(to_yaml(run.resolved)).items() if key not in _NO_PART}
        # The launcher chose the folder; each process would make up a name of its own.
        config["output"] = str(run.output)
        if run.judged is None and config.get("resume") not in ("never", "auto"):
            config["resume"] = "auto"
        origins = {path: str(origin) for path, origin in run.resolved.origins.items()}
        plugins = [[a.name, a.distribution, a.version] for a in run.active]
        return cls(config, plugins, judged=run.judged, origins=origins)

    def write(self, folder: Path) -> None:
        """Write the job where its processes read it."""
        (folder / JOB_FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Job:
        """Read a job."""
        return cls(**json.loads((folder / JOB_FILE).read_text(encoding="utf-8")))

    def resolve(self) -> Resolved:
        """Resolve the job in this process.

        Raises:
            PluginError: this machine has other versions of its plugins.
        """
        from hfx.resolve import resolve

        resolved = resolve(mapping=self.config)
        here = [[a.name, a.distribution, a.version] for a in resolved.plugins]
        for wanted, found in zip(self.plugins, here, strict=False):
            if wanted != found:
                raise PluginError(
                    f"the launcher has '{wanted[0]}' of {wanted[1]} {wanted[2]} and this process '{found[0]}' of "
                    f"{found[1]} {found[2]}; install the same packages, and the same policy, everywhere"
                )
        said = {path: replace(o, where=self.origins.get(path, o.where)) for path, o in resolved.origins.items()}
        return replace(resolved, origins=said)

    def run(self) -> RunResult:
        """Run the job as one of its processes; RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT say which."""
        from hfx.api import execute

        os.environ.setdefault(LAUNCHED, "0")
        if self.judged is not None:
            from hfx import evaluator

            return evaluator.execute(self.resolve(), evaluator.Judged(**self.judged))
        return execute(self.resolve(), micro_batch_size=self.micro_batch_size)


@dataclass(frozen=True)
class Failure:
    """How a process of a job failed."""

    rank: int
    kind: str
    """The class of the error."""
    message: str
    time: float
    passes: bool
    """Whether trying again may help: not after a mistake, which stays one."""
    micro_batch_size: int | None = None
    """The micro-batch to try again with, where a training step ran out of memory with a larger one."""

    @classmethod
    def of(cls, error: BaseException, rank: int) -> Failure:
        """Return what is to be told of an error."""
        from hfx.cli.boundary import told

        named = isinstance(error, HfxError) and not isinstance(error, CollectiveError | RemoteError)
        smaller = error.micro_batch_size if isinstance(error, DeviceMemoryError) else None
        return cls(rank, type(error).__name__, told(error)[0], time.time(), not named, smaller)

    def error(self) -> BaseException:
        """Return the failure as an exception for the process that launched."""
        if self.kind == KeyboardInterrupt.__name__:
            return KeyboardInterrupt()
        kind = getattr(errors, self.kind, HfxError)
        message = self.message if f"rank {self.rank} " in self.message else f"rank {self.rank}: {self.message}"
        made = cast("BaseException", kind(message))
        if isinstance(made, DeviceMemoryError):
            made.micro_batch_size = self.micro_batch_size
        return made

    def write(self, folder: Path) -> None:
        """Leave it to the launcher."""
        (folder / f"failure-{self.rank}.json").write_text(json.dumps(asdict(self)), encoding="utf-8")


def failures(folder: Path) -> list[Failure]:
    """Return how the processes of a job failed, the cause before what followed from it."""
    found = [Failure(**json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob("failure-*.json")]
    return sorted(found, key=lambda failure: (failure.kind == CollectiveError.__name__, failure.time))


def forget_failures(folder: Path) -> None:
    """Forget how an earlier attempt ended."""
    for path in (*folder.glob("failure-*.json"), *folder.glob("result*.json")):
        path.unlink()


def result(folder: Path, output: Path) -> RunResult:
    """Return how the run stands, as its main process wrote it, or the first one here where that is elsewhere."""
    path = next((path for path in (folder / RESULT_FILE, *folder.glob("result-*.json")) if path.is_file()), None)
    if path is None:
        return RunResult(output, {}, 0)
    values = json.loads(path.read_text(encoding="utf-8"))
    return RunResult(output, values["metrics"], values["step"], values["stopped"])


@redacting()
def main(folder: Path) -> int:
    """Run a job in this process, and leave its result or failure in the folder."""
    from hfx.cli import tracebacks
    from hfx.launch import world_from

    _end_with_launcher()
    world = world_from()
    rank = world.rank
    job = Job.read(folder)
    try:
        if rank:
            _write_to(Path(job.config["output"]) / LOGS / f"rank-{rank}.log")
        ended = job.run()
        if world.local_rank == 0:
            values = {"metrics": ended.metrics, "step": ended.step, "stopped": ended.stopped}
            name = f"result-{rank}.json" if rank else RESULT_FILE
            (folder / name).write_text(json.dumps(values), encoding="utf-8")
    except BaseException as error:  # noqa: BLE001 - the outermost boundary of this process; the launcher tells it
        Failure.of(error, rank).write(folder)
        if rank or tracebacks.wanted():
            traceback.print_exception(error)
        return 1
    return 0


def _end_with_launcher() -> None:
    """Let this process be told to end, saved, when its launcher is killed: nobody else would stop it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG of prctl.h


def _write_to(log: Path) -> None:
    """Let this process write to a file, after what an earlier attempt wrote, and not to the terminal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stdout.flush()
    sys.stderr.flush()
    for stream in (sys.stdout, sys.stderr):
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise UsageError("'python -m hfx.job' takes the folder of a job, and is called by launchers")
    sys.exit(main(Path(sys.argv[1])))
