"""Python, cores, memory and threads: what this process may use, whatever the machine has."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from hfx.cgroups import allowed, cores
from hfx.cli.doctor_line import Found

GIB = 2**30
SHM = Path("/dev/shm")
_LITTLE_SHM = 128 * 2**20
"""Docker gives 64 MiB; NCCL wants some ten for each pair of ranks."""


def check_python() -> Iterator[Found]:
    """Tell the interpreter."""
    yield "ok", f"{platform.python_version()} at {sys.executable}, on {platform.system()} {platform.machine()}"


def check_cores() -> Iterator[Found]:
    """Tell the usable cores."""
    usable, why = cores()
    words = f"{usable:.3g} usable, {why}"
    if usable < 1:
        yield "warning", words, "less than one core feeds no device; give the container a larger share"
    else:
        yield "ok", words


def check_memory() -> Iterator[Found]:
    """Tell the memory that this process may still take."""
    import psutil

    machine = psutil.virtual_memory()
    words = [f"{machine.available / GIB:,.1f} GiB free of the machine's {machine.total / GIB:,.1f}"]
    free = machine.available
    group = allowed()
    if group is not None and group[1] < machine.total:
        left, limit = group
        words.append(f"{left / GIB:,.1f} GiB of the {limit / GIB:,.1f} that a cgroup allows")
        free = min(free, left)
    if free < 2 * GIB:
        yield (
            "warning",
            "; ".join(words),
            "end other processes, or raise the container's limit; 'hfx plan' says how much a run holds",
        )
    else:
        yield "ok", "; ".join(words)


# ── threads and shared memory ────────────────────────────────────────────────────────────────────────────────────────


def check_threads() -> Iterator[Found]:
    """Tell how many threads a process computes with."""
    usable, _ = cores()
    most = max(1, int(usable))
    given = os.environ.get("OMP_NUM_THREADS")
    if given is None:
        taken, words = len(os.sched_getaffinity(0)), "one process computes on"
        if taken > most:
            what = f"OMP_NUM_THREADS is not set: {words} {taken} threads, and a cgroup leaves it {most} cores"
            yield "warning", what, f"set OMP_NUM_THREADS={most}"
        else:
            yield "ok", f"OMP_NUM_THREADS is not set: {words} {most} cores, several share them"
        return
    mend = f"unset it, or set it to the cores of one process ({most} at most)"
    if not re.fullmatch(r"\s*0*[1-9]\d*\s*(,\s*0*[1-9]\d*\s*)*", given):
        yield "wrong", f"OMP_NUM_THREADS is '{given}', which is no number above 0", mend
    elif (threads := int(given.split(",")[0])) > most:
        yield (
            "warning",
            f"OMP_NUM_THREADS is {threads}, and {most} cores are usable: threads wait for one another",
            mend,
        )
    else:
        yield "ok", f"OMP_NUM_THREADS is {threads}, of {most} usable cores"


def check_shm() -> Iterator[Found]:
    """Tell the room for memory that processes share."""
    mend = "start the container with '--shm-size=8g' or '--ipc=host'"
    if not SHM.is_dir():
        yield "warning", f"there is no {SHM}, through which processes share memory", mend
        return
    usage = shutil.disk_usage(SHM)
    words = f"{_size(usage.free)} free of {_size(usage.total)} in {SHM}"
    if not os.access(SHM, os.W_OK | os.X_OK):
        yield "wrong", f"{SHM} cannot be written", f"chmod 1777 {SHM}"
    elif usage.free < _LITTLE_SHM:
        yield "warning", words, f"ranks on GPUs may fail with 'bus error'; {mend}"
    else:
        yield "ok", words


def _size(size: float) -> str:
    return f"{size / GIB:,.1f} GiB" if size >= GIB else f"{size / 2**20:,.0f} MiB"
