"""A run as the workers of Ray Train, which finds them a place and starts them again."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from hfx import HfxError, RunResult
from hfx.claim import LOGS, leave_nothing
from hfx.errors import CollectiveError
from hfx.job import RESULT_FILE, Job, failures, result
from hfx.launch import STOP_SIGNALS
from hfx.resume import RUN_FILE
from hfx_ray.worker import FIRST_LOG, STOP, Meeting, work

if TYPE_CHECKING:
    from hfx import Run
    from hfx_ray.ray import Ray

_HANDED_ON = ("HFX_", "HF_", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM")
_SECRETS = ("TOKEN", "KEY", "SECRET", "PASSWORD")
_LOOK_SECONDS = 0.5
_KNOCK_SECONDS = 10.0


def launch(run: Run, options: Ray) -> RunResult:
    """Start the workers, and return how the run ended.

    Raises:
        HfxError: the first failure of a worker, as it was there; or there is no cluster.
    """
    job = Job.of(run)
    with _cluster(options), _folder(run.output) as folder:
        job.write(folder)
        _warn_of_waiting(options)
        try:
            with _handing_on_signals(folder / STOP):
                _fit(_trainer(folder, options), folder / FIRST_LOG)
        except TrainingFailedError as error:
            raise _cause(folder, error) from error
        if told := failures(folder):
            raise told[0].error()
        if not (folder / RESULT_FILE).is_file():
            raise HfxError(f"the workers left nothing in '{folder}'; choose an '--output' that all nodes see")
        return result(folder, run.output)


def _trainer(folder: Path, options: Ray) -> DataParallelTrainer:
    return DataParallelTrainer(
        work,
        train_loop_config={"folder": str(folder), "cwd": os.getcwd()},
        backend_config=Meeting(str(folder)),
        scaling_config=ScalingConfig(
            num_workers=options.workers, use_gpu=options.gpus > 0, resources_per_worker=_resources(options)
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=options.restarts),
            worker_runtime_env={"env_vars": _environment(options)},
        ),
    )


def _resources(options: Ray) -> dict[str, float]:
    gpus = {"GPU": options.gpus} if options.gpus else {}
    return {"CPU": options.cpus, **gpus, **options.resources}


def _environment(options: Ray) -> dict[str, str]:
    def wanted(name: str) -> bool:
        secret = any(word in name for word in _SECRETS)
        return name in options.environment or (name.startswith(_HANDED_ON) and not secret)

    # Ray hands each printed line to its own log, too, which comes out where this one does.
    return {name: value for name, value in os.environ.items() if wanted(name)} | {"RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}


@contextmanager
def _cluster(options: Ray) -> Iterator[None]:
    """Connect with the cluster, unless this process has done so."""
    if ray.is_initialized():
        yield
        return
    where = options.address or os.environ.get("RAY_ADDRESS")
    try:
        _knock(where)
        # What the first rank says is printed from its log, without the words of Ray's other processes.
        ray.init(address=where or "auto", logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        found = f"at '{where}'" if where else "on this machine"
        raise HfxError(
            f"'{options.name}' finds no Ray cluster {found} ({_first_line(error)}); "
            f"'ray start --head' begins one, '--{options.name}.address' or RAY_ADDRESS names one"
        ) from error
    try:
        with redirect_stdout(sys.stderr):  # Ray prints there what it says of dead workers
            yield
    finally:
        ray.shutdown()


def _knock(where: str | None) -> None:
    """Raise an OSError where nobody listens: Ray itself tries for many minutes."""
    host, _, port = (where or "").rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()


def _warn_of_waiting(options: Ray) -> None:
    there = ray.cluster_resources()
    for name, each in _resources(options).items():
        if each * options.workers > there.get(name, 0):
            print(
                f"hfx: the workers need {each * options.workers:g} of '{name}', and the cluster has "
                f"{there.get(name, 0):g}; Ray waits until it has grown",
                file=sys.stderr,
            )


def _fit(trainer: DataParallelTrainer, log: Path) -> None:
    """Train in a thread, where Ray leaves the signals alone, and print what the first rank writes."""
    ended: Future[None] = Future()

    def fit() -> None:
        try:
            trainer.fit()
            ended.set_result(None)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            ended.set_exception(error)

    threading.Thread(target=fit, daemon=True).start()
    seen, over = 0, False
    while not over:
        over = bool(wait([ended], timeout=_LOOK_SECONDS).done)
        seen = _show(log, seen)
    ended.result()


def _show(log: Path, seen: int) -> int:
    """Print the whole lines of a log beyond a place, and return the place behind them."""
    try:
        with log.open("rb") as file:
            file.seek(seen)
            new = file.read()
    except FileNotFoundError:
        return seen
    whole = new[: new.rfind(b"\n") + 1]
    print(whole.decode("utf-8", "replace"), end="", file=sys.stderr, flush=True)
    return seen + len(whole)


@contextmanager
def _handing_on_signals(stop: Path) -> Iterator[None]:
    """Let a signal end the run with a checkpoint, by a file that the first rank looks for; a second SIGINT ends it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def tell(number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        if name == "SIGINT" and stop.exists():
            raise KeyboardInterrupt
        partial = stop.with_suffix(".partial")
        partial.write_text(name, encoding="utf-8")
        partial.replace(stop)

    before = {name: signal.signal(getattr(signal, name), tell) for name in STOP_SIGNALS}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _cause(folder: Path, error: TrainingFailedError) -> BaseException:
    """Return a mistake or a lost worker before what followed from it: that others missed that one."""
    told = failures(folder)
    if told and told[0].kind != CollectiveError.__name__:
        return told[0].error()
    of_ranks: dict[int, Any] = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    for rank, cause in sorted(of_ranks.items()):
        if isinstance(cause, RayActorError):
            return HfxError(f"rank {rank} was lost: {_first_line(cause)}; look into '{folder}'")
    return told[0].error() if told else HfxError(f"Ray: {_first_line(error)}; look into '{folder}'")


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _folder(output: Path) -> Iterator[Path]:
    """Make a folder for the job, which goes where the run was refused."""
    logs = (output / LOGS).absolute()
    logs.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir=logs))
    try:
        yield folder
    finally:
        if failures(folder) and not (output / RUN_FILE).exists():
            shutil.rmtree(folder)
            leave_nothing(output)
