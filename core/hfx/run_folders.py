"""Several runs: those below a folder, and what differs between their configs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hfx.run_folder import RUN_FILE, RunFolder


def runs_in(folder: Path) -> Iterator[RunFolder]:
    """Yield the runs in a folder and below it, by name; what lies in a run is no run."""
    for path, folders, files in os.walk(folder):
        if RUN_FILE in files:
            folders.clear()
            yield RunFolder(Path(path))
        folders.sort()


def differing(runs: list[RunFolder]) -> dict[str, list[Any]]:
    """Return the values that are not the same in all configs, by path, one of each run; None where it has none.

    Options of a plugin that not all runs have are left out, but for those that somebody set.
    """
    if len(runs) < 2:
        return {}
    names = [set(run.config.get("plugins", [])) for run in runs]
    common = set.intersection(*names)
    found: dict[str, list[Any]] = {}
    if any(one != common for one in names):
        found["plugins"] = [
            ", ".join(name for name in run.config.get("plugins", []) if name not in common) for run in runs
        ]
    for path in dict.fromkeys(path for run in runs for path in run.config):
        plugin, dot, _ = path.partition(".")
        values = [run.config.get(path) for run in runs]
        if path in ("plugins", "output", "resume") or all(value == values[0] for value in values):
            continue
        if dot and plugin not in common and not any(path in run.origins for run in runs):
            continue
        found[path] = values
    return found
