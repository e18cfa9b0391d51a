"""Two ranks on this machine: whether they find each other, how long a message takes, and how much they carry."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hfx.cli.doctor_line import Found
from hfx.cli.doctor_worker_impl import doing

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

MESSAGES, REDUCED = 200, 16 * 2**20
_PATIENCE = {"gloo": 8, "nccl": 25}
"""Seconds; over NCCL the ranks import torch first."""
_SLOW_SECONDS, _SLOW_BYTES = 0.02, 50 * 2**20


def check_ranks() -> Iterator[Found]:
    """Start two ranks over gloo, and over NCCL where there are two GPUs."""
    doing("importing 'torch'")
    import torch

    doing("waiting for the other checks, so that the machine is quiet")
    sys.stdin.readline()
    yield _measured("gloo")
    if torch.version.cuda and torch.cuda.device_count() > 1:
        yield _measured("nccl")


def _measured(backend: str) -> Found:
    doing(f"connecting two ranks over {backend}")
    patience = _PATIENCE[backend]
    ours, theirs = multiprocessing.Pipe()
    # Started from nothing where there is a GPU: CUDA does not survive a fork.
    context: Any = multiprocessing.get_context("fork" if backend == "gloo" else "spawn")
    ports = context.SimpleQueue()
    ranks = [context.Process(target=_rank, args=(backend, rank, ports, theirs), daemon=True) for rank in range(2)]
    for rank in ranks:
        rank.start()
    answer = ours.recv() if ours.poll(patience) else f"they did not connect within {patience} s"
    for rank in ranks:
        rank.join(1)
        rank.kill()
    if isinstance(answer, str):
        name = os.uname().nodename
        look = f"look whether the interface 'lo' is up and 'getent hosts {name}' finds this machine"
        if backend == "nccl":
            look = "NCCL_DEBUG=INFO in the environment of a run says more; look at the size of /dev/shm, too"
        return "wrong", f"two ranks over {backend}: {answer}", look
    seconds, rate = answer
    words = (
        f"two ranks over {backend}: a round trip in {seconds * 1e6:,.0f} µs, all-reduce at {rate / 2**20:,.0f} MiB/s"
    )
    if seconds > _SLOW_SECONDS or rate < _SLOW_BYTES:
        return (
            "warning",
            words,
            "the machine is busy, or its network slows messages to itself; ask again when it is quiet",
        )
    return "ok", words


def _rank(backend: str, rank: int, ports: Any, answers: Connection) -> None:
    """Be one of the two: rank 0 answers with seconds and bytes a second, either with what went wrong."""
    import torch

    distributed: Any = torch.distributed  # its types leave out the stores
    limit = timedelta(seconds=_PATIENCE[backend] - 2)
    try:
        port = 0 if rank == 0 else ports.get()
        store = distributed.TCPStore("127.0.0.1", port, 2, is_master=rank == 0, timeout=limit, wait_for_workers=False)
        if rank == 0:
            ports.put(store.port)
        device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        distributed.init_process_group(backend, store=store, rank=rank, world_size=2, timeout=limit)
        found = (_round_trip(rank, device), _rate(device))
        distributed.destroy_process_group()
        if rank == 0:
            answers.send(found)
    except Exception as error:  # noqa: BLE001 - torch raises many kinds, and each is an answer
        answers.send(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}")


def _round_trip(rank: int, device: Any) -> float:
    """Return the seconds from sending a number to its return, the median of many."""
    import torch
    from torch import distributed

    message, times = torch.zeros(1, device=device), []
    for _ in range(MESSAGES):
        began = time.perf_counter()
        for sender in (0, 1):
            if rank == sender:
                distributed.send(message, 1 - sender)
            else:
                distributed.recv(message, sender)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _rate(device: Any) -> float:
    """Return the bytes a second of an all-reduce, the best of some."""
    import torch
    from torch import distributed

    tensor, times = torch.ones(REDUCED // 4, device=device), []
    for _ in range(5):
        began = time.perf_counter()
        distributed.all_reduce(tensor)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return REDUCED / min(times)
