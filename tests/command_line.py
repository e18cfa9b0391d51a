"""`hfx` in a process of its own, as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

MODULE = (sys.executable, "-m", "hfx")
SCRIPT = (str(Path(sys.executable).with_name("hfx")),)
PATIENCE = 900.0
"""Seconds after which a call counts as one that never ends."""


def hfx(
    *arguments: str, path: Path | None = None, cwd: Path | None = None, command: Sequence[str] = MODULE, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run `hfx` with some arguments; `path` is searched for packages before those that are installed."""
    return subprocess.run(
        [*command, *arguments],
        env=environment(path, **environ),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def environment(path: Path | None = None, **environ: str) -> dict[str, str]:
    """Return this process's environment without what would change how hfx behaves."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HFX_", "_HFX"))}
    return kept | environ | ({"PYTHONPATH": str(path)} if path else {})


def imported_by(*arguments: str, path: Path | None = None) -> set[str]:
    """Return the names of the modules that a call of `hfx` has imported when it ends."""
    code = (
        "import sys\n"
        f"sys.argv = ['hfx', *{arguments!r}]\n"
        "from hfx.__main__ import main\n"
        "main()\n"
        "print('MODULES', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(path), capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


def shortest(command: Sequence[str], path: Path | None = None, times: int = 9) -> float:
    """Return the shortest time of several calls, in seconds."""
    return min(_seconds(command, environment(path)) for _ in range(times))


def _seconds(command: Sequence[str], environ: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - began
