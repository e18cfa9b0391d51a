"""Writing the lines of the audit trail."""

from __future__ import annotations

import getpass
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfx import Run


def obstacle(path: Path) -> str | None:
    """Return why no line can be appended to the file, or None; nothing is made."""
    if path.is_dir():
        return "it is a folder"
    if not path.exists() and not path.parent.is_dir():
        return f"there is no folder '{path.parent}'"
    return None if os.access(path if path.exists() else path.parent, os.W_OK) else "this user may not"


@contextmanager
def record(path: Path, run: Run) -> Iterator[dict[str, Any]]:
    """Yield the run's line to be completed, and append it in the end, also when the run raises."""
    line = {**_who(), "started": _now(), **_what(run), "outcome": "failed"}
    try:
        yield line
    except BaseException as error:
        line["outcome"] = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        line["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        if run.world.is_main:
            # None: it ended before its data was prepared.
            _append(path, {**line, "data": run.local.get("audit"), "ended": _now()})


def _who() -> dict[str, Any]:
    # The name comes from the environment, which its user can set; the number does not.
    return {"user": getpass.getuser(), "uid": os.getuid(), "host": platform.node(), "pid": os.getpid()}


def _what(run: Run) -> dict[str, Any]:
    plugins = {plugin.name: f"{plugin.distribution} {plugin.version}" for plugin in run.active}
    return {"output": str(run.output.absolute()), "run": run.config.model_dump(mode="json"), "plugins": plugins}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _append(path: Path, line: dict[str, Any]) -> None:
    # One write to a file opened for appending: lines of runs that end at the same time do not mix.
    with path.open("ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")
        os.fsync(file.fileno())
