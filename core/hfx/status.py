"""`status.json`: what a run says of itself for whoever looks at its folder: when it began, its length, how it ended."""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfx.redact import redacted

if TYPE_CHECKING:
    from hfx.protocols import Values
    from hfx.run import Run

STATUS_FILE = "status.json"
log = logging.getLogger("hfx")


def now() -> str:
    """Return the time as ISO 8601 text in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_status(output: Path) -> Values:
    """Return what a run wrote of itself; nothing where it wrote none.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    path = output / STATUS_FILE
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError("it is no object")
    return found


@contextmanager
def telling_status(run: Run) -> Iterator[None]:
    """Write down that the run has begun and, once the context is left, how it ended; only the main rank does."""
    if not run.world.is_main:
        yield
        return
    status = _begin(run)
    try:
        yield
    except BaseException as error:
        if (run.output / STATUS_FILE).exists():  # else the run was taken back, and leaves nothing
            _end(run, status, "failed", _reason(error))
        raise
    stopped = run.result().stopped
    _end(run, status, "stopped" if stopped else "finished", stopped)


def _begin(run: Run) -> Values:
    try:
        earlier = read_status(run.output)
    except (OSError, ValueError) as error:
        log.warning("'%s' cannot be read (%s); it is written anew", run.output / STATUS_FILE, error)
        earlier = {}
    at, starts, resumed = now(), earlier.get("starts"), earlier.get("resumed")
    starts = starts if isinstance(starts, int) else 0
    resumed = resumed if isinstance(resumed, list) else []
    again = {"step": run.step, "at": at, "ranks": run.world.size, "before": earlier.get("ended")}
    status = {
        "begun": earlier.get("begun", at),
        "started": at,
        "starts": starts + 1,
        "resumed": [*resumed, again] if starts else [],
        "host": platform.node(),
        "pid": os.getpid(),
        "ranks": run.world.size,
        "device": str(run.device),
        "total_steps": run.total_steps,
        "origins": _origins(run, earlier.get("origins", {})),
        "ended": None,
    }
    _write(run.output, status)
    return status


def _origins(run: Run, earlier: dict[str, str]) -> dict[str, str]:
    """Return where values came from by path, without defaults; what came from the run's own file, from where before."""
    own = f"{run.output / 'run.yaml'}:"
    found = {path: str(origin) for path, origin in run.resolved.origins.items()}
    found = {path: earlier.get(path, "default") if text.startswith(own) else text for path, text in found.items()}
    return {path: text for path, text in found.items() if text != "default"}


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    said = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _end(run: Run, status: Values, how: str, why: str | None) -> None:
    ended = {"how": how, "why": why, "step": run.step, "at": now()}
    try:
        _write(run.output, status | {"ended": ended})
    except OSError as error:  # how it ended stays as it is, and is told by what ended it
        log.warning("'%s' does not say how the run ended: %s", run.output / STATUS_FILE, error.strerror)


def _write(output: Path, status: dict[str, Any]) -> None:
    path = output / STATUS_FILE
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(redacted(status), indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
