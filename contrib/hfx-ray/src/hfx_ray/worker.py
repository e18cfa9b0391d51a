"""What runs in Ray's workers: the meeting of the ranks before each start, and the run."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig

from hfx.job import failures, forget_failures, main
from hfx_ray.ray import STOP_FILE

FIRST_LOG = "rank-0.log"
STOP = "stop"


@dataclass
class Meeting(BackendConfig):  # type: ignore[misc]
    """Says where the ranks meet; Ray's own for torch forms a process group, too, and hfx's backends form theirs."""

    folder: str
    """Where the job is written."""

    @property
    def backend_cls(self) -> type[Backend]:
        """Return what acts on the workers."""
        return _Meeting


class _Meeting(Backend):  # type: ignore[misc]
    share_cuda_visible_devices = True  # LOCAL_RANK counts the devices of all workers on a node

    def on_start(self, worker_group: Any, backend_config: Meeting) -> None:
        """Choose a place on the first worker; Ray calls this before each start."""
        host, port = worker_group.execute_single(0, _begin, Path(backend_config.folder))
        worker_group.execute(_meet_at, host, port)


def _begin(folder: Path) -> tuple[str, int]:
    told = failures(folder)
    if not told or told[0].passes:
        forget_failures(folder)
        if (log := folder / FIRST_LOG).exists():
            _say(log, told[0].message if told else "a worker was lost")
    host: str = ray.util.get_node_ip_address()
    with socket.socket() as free:
        free.bind(("", 0))
        return host, free.getsockname()[1]


def _say(log: Path, why: str) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(f"hfx: {why}; all begin again at the newest checkpoint\n")


def _meet_at(host: str, port: int) -> None:
    os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": str(port)}


def work(config: dict[str, str]) -> None:
    """Run the job as one of its processes.

    Raises:
        RuntimeError: it failed; Ray starts all workers again.
    """
    folder = Path(config["folder"])
    # A mistake stays one: what Ray starts again after it ends at once, and the launcher tells it.
    if failures(folder):
        return
    here = ray.train.get_context()
    rank = here.get_world_rank()
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(here.get_world_size()),
        "LOCAL_RANK": str(here.get_local_rank()),
        STOP_FILE: str(folder / STOP),
    }
    os.chdir(config["cwd"])
    with _writing_to(folder / FIRST_LOG) if rank == 0 else nullcontext():
        failed = main(folder)
    if failed:
        raise RuntimeError(f"rank {rank} failed; '{folder}' says why")


@contextmanager
def _writing_to(log: Path) -> Iterator[None]:
    """Let this process write to a file: Ray's way to the launcher adds words of its own."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    before = {stream: os.dup(stream) for stream in (1, 2)}
    for stream in before:
        os.dup2(descriptor, stream)
    os.close(descriptor)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, place in before.items():
            os.dup2(place, stream)
            os.close(place)
