"""Python, cores, memory and threads: what this process may use, whatever the machine has."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from hfx.cli.doctor_line import Found

GIB = 2**30
CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
SHM = Path("/dev/shm")
_LITTLE_SHM = 128 * 2**20
"""Docker gives 64 MiB; NCCL wants some ten for each pair of ranks."""


def check_python() -> Iterator[Found]:
    """Tell the interpreter."""
    yield "ok", f"{platform.python_version()} at {sys.executable}, on {platform.system()} {platform.machine()}"


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def limits(name: str, old: str, root: Path = CGROUPS, groups: Path = OWN_GROUPS) -> list[str]:
    """Return what the cgroups that this process is in say, from its own to the root.

    `name` is a file of cgroups 2 (`memory.max`), `old` its name in a machine's old ones (`memory.limit_in_bytes`).
    """
    files = [folder / file for folder, file in _folders(name, old, root, groups)]
    return [file.read_text().strip() for file in files if file.is_file()]


def _folders(name: str, old: str, root: Path, groups: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folders of this process's cgroups, and which of two files theirs would be."""
    for line in groups.read_text().splitlines():
        _, controllers, place = line.split(":", 2)
        controller = old.partition(".")[0]
        if controllers and controller not in controllers.split(","):
            continue
        top = root / controller if controllers else root
        own = top / place.lstrip("/")
        yield from ((at, old if controllers else name) for at in (own, *own.parents) if at.is_relative_to(top))


def allowed(root: Path = CGROUPS, groups: Path = OWN_GROUPS) -> tuple[int, int] | None:
    """Return the bytes that are left in the narrowest of this process's cgroups, and its limit; None without a limit.

    Files that are cached and not in use count as left: the system drops them.
    """
    found = []
    for folder, file in _folders("memory.max", "memory.limit_in_bytes", root, groups):
        limit = _number(folder / file)
        if limit is None:
            continue
        used = _number(folder / ("memory.current" if file == "memory.max" else "memory.usage_in_bytes")) or 0
        found.append((max(0, limit - used + _cached(folder / "memory.stat")), limit))
    return min(found, default=None)


def _number(file: Path) -> int | None:
    text = file.read_text().strip() if file.is_file() else ""
    return int(text) if text.isdecimal() else None


def _cached(stat: Path) -> int:
    """Return the bytes of cached files that a cgroup may drop, those of the groups in it included."""
    pairs = dict(line.split() for line in stat.read_text().splitlines()) if stat.is_file() else {}
    return int(pairs.get("total_inactive_file", pairs.get("inactive_file", 0)))


def cores() -> tuple[float, str]:
    """Return how many cores' time this process gets, and what decides that."""
    machine, own = os.cpu_count() or 1, len(os.sched_getaffinity(0))
    usable, why = float(own), f"of the machine's {machine}" if own < machine else "all of the machine"
    quotas = [line.split() for line in limits("cpu.max", "cpu.cfs_quota_us") if not line.startswith(("max", "-1"))]
    for quota, *period in quotas:
        share = int(quota) / int(period[0] if period else _old_period())
        if share < usable:
            usable, why = share, f"by the limit of a cgroup; the machine has {machine}"
    return usable, why


def _old_period() -> str:
    return next(iter(limits("cpu.max", "cpu.cfs_period_us")), "100000")


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
        yield "ok", f"OMP_NUM_THREADS is not set: one process computes on {most} cores, several share them"
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
