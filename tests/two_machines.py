"""Two machines on one: network namespaces joined by a pair of virtual interfaces, which can be cut."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ADDRESSES = ("10.77.0.1", "10.77.0.2")


@dataclass(frozen=True)
class Machine:
    """One of them."""

    pid: int
    """A process that lives in its network."""
    address: str

    def inside(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs a command there."""
        return ["nsenter", "--target", str(self.pid), "--net", *command]

    def link(self, state: str) -> None:
        """Cut the link to the other one (`down`), or mend it (`up`)."""
        subprocess.run(self.inside(["ip", "link", "set", "way", state]), check=True)


def missing() -> str | None:
    """Return why there can be no two machines here, or None."""
    for program in ("ip", "nsenter", "unshare"):
        if shutil.which(program) is None:
            return f"'{program}' is not installed (Debian: iproute2, util-linux)"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"no network namespace can be made: {tried.stderr.strip()}"


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Make them, joined; they go with the block."""
    holders = [subprocess.Popen(["unshare", "--net", "sleep", "3600"]) for _ in ADDRESSES]
    try:
        for holder in holders:
            _wait_for_own_network(holder.pid)
        first, second = (Machine(holder.pid, address) for holder, address in zip(holders, ADDRESSES, strict=True))
        peer = ["peer", "name", "way", "netns", str(second.pid)]
        subprocess.run(first.inside(["ip", "link", "add", "way", "type", "veth", *peer]), check=True)
        for machine in (first, second):
            for words in (
                ["addr", "add", f"{machine.address}/24", "dev", "way"],
                ["link", "set", "way", "up"],
                ["link", "set", "lo", "up"],
            ):
                subprocess.run(machine.inside(["ip", *words]), check=True)
        yield first, second
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


def _wait_for_own_network(pid: int) -> None:
    ours = os.readlink("/proc/self/ns/net")
    while Path(f"/proc/{pid}/ns/net").exists() and os.readlink(f"/proc/{pid}/ns/net") == ours:
        pass
