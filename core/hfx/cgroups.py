"""What this process may use of the machine: cores and memory, whatever its cgroups leave of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def limits(name: str, old: str, root: Path = CGROUPS, groups: Path = OWN_GROUPS) -> list[str]:
    """Return what the cgroups that this process is in say, from its own to the root.

    `name` is a file of cgroups 2 (`memory.max`), `old` its name in a machine's old ones (`memory.limit_in_bytes`).
    """
    files = [folder / file for folder, file in _folders(name, old, root, groups)]
    return [file.read_text().strip() for file in files if file.is_file()]


def _folders(name: str, old: str, root: Path, groups: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folders of this process's cgroups, and which of two files theirs would be."""
    if not groups.is_file():
        return
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
    machine, own = os.cpu_count() or 1, _affinity()
    usable, why = float(own), f"of the machine's {machine}" if own < machine else "all of the machine"
    quotas = [line.split() for line in limits("cpu.max", "cpu.cfs_quota_us") if not line.startswith(("max", "-1"))]
    for quota, *period in quotas:
        share = int(quota) / int(period[0] if period else _old_period())
        if share < usable:
            usable, why = share, f"by the limit of a cgroup; the machine has {machine}"
    return usable, why


def _old_period() -> str:
    return next(iter(limits("cpu.max", "cpu.cfs_period_us")), "100000")


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
