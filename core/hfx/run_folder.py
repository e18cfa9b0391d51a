"""A run as its folder tells of it: whether it is alive, how it ended, its config, records and checkpoints.

Imports no torch. What is damaged or half written is named in `problems`; the rest is told all the same.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from hfx.claim import held
from hfx.errors import ConfigError
from hfx.figures import METRICS_FILE, Line, evaluations, last_steps
from hfx.status import STATUS_FILE, read_status

RUN_FILE, REPORT_FILE, PLAN_FILE = "run.yaml", "data_report.json", "plan.json"
SPEED_STEPS = 20
"""Steps at the end over which speed is told."""
_RECENT = 120.0
"""Seconds after its last line for which a run of another machine may be alive, where locks do not reach."""
_NAMED = re.compile(r"(\d{8}-\d{6})-")
_STEP = re.compile(r"step-(\d{8,})")
_PLUGIN = re.compile(r"# '([^']+)' \((.+)\)")


@dataclass(frozen=True)
class Standing:
    """How a run stands: `running`, `finished`, `stopped`, `failed` or `killed`, and why."""

    how: str
    why: str | None = None
    step: int | None = None
    """The step it ended at, where it said so."""

    def __str__(self) -> str:
        return f"{self.how} ({self.why})" if self.why else self.how


@dataclass(frozen=True)
class Saved:
    """A checkpoint on disk."""

    step: int
    path: Path
    files: int
    size: int
    """Bytes."""
    at: float
    """When it was committed, in seconds since 1970."""


@dataclass(frozen=True)
class Resume:
    """A start after the first: the step it went on from (0: it began anew), its ranks, how the run stood before."""

    step: int
    ranks: int
    before: Standing


class RunFolder:
    """The folder of a run, read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []

    # ── what it was to do ────────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def config(self) -> dict[str, Any]:
        """The values of `run.yaml` by path: `seed`, `lion.lr`; and `plugins`, their names."""
        from hfx.layers import plain, read_yaml

        try:
            tree = plain(read_yaml(self.path / RUN_FILE))
        except ConfigError as error:
            self.problems.append(str(error).partition(";")[0])
            return {}
        plugins = tree.pop("plugins", None)
        plugins = plugins if isinstance(plugins, dict) else {}
        found: dict[str, Any] = {str(key): value for key, value in tree.items()}
        found["plugins"] = [str(name) for name in plugins]
        for name, options in plugins.items():
            found |= {f"{name}.{key}": value for key, value in (options or {}).items()} if _mapping(options) else {}
        return found

    @cached_property
    def origins(self) -> dict[str, str]:
        """Where values came from by path, as in `config`, without defaults; empty where the run did not say."""
        origins = self.status.get("origins")
        if not isinstance(origins, dict):
            return {}
        return {str(path).removeprefix("run."): str(origin) for path, origin in origins.items()}

    @cached_property
    def packages(self) -> dict[str, str]:
        """Package and version by plugin, as the head of `run.yaml` has them."""
        try:
            with (self.path / RUN_FILE).open(encoding="utf-8", errors="replace") as file:
                return {match[1]: match[2] for line in file if (match := _PLUGIN.match(line))}
        except OSError:
            return {}  # `config` names what is wrong with the file

    # ── how it stands ────────────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def status(self) -> dict[str, Any]:
        """What the run wrote of itself; empty where it wrote nothing, or it is damaged."""
        try:
            return read_status(self.path)
        except (OSError, ValueError) as error:
            self.problems.append(f"'{STATUS_FILE}' is damaged: {_first_line(error)}")
            return {}

    def standing(self) -> Standing:
        """Return how the run stands now."""
        if held(self.path) or self._alive_elsewhere():
            return Standing("running")
        return _ended(self.status.get("ended")) if self.status else self._guessed()

    def _alive_elsewhere(self) -> bool:
        """Return whether another machine, whose lock is not seen here, seems to write still."""
        if self.status.get("ended") or self.status.get("host") in (None, platform.node()):
            return False
        return time.time() - self._changed(METRICS_FILE, STATUS_FILE) < _RECENT

    def _changed(self, *names: str) -> float:
        paths = [self.path / name for name in names]
        return max((path.stat().st_mtime for path in paths if path.exists()), default=0.0)

    def _guessed(self) -> Standing:
        """Return how a run stands that wrote no `status.json`, by what it left."""
        saved = self.checkpoints
        if (self.path / "model" / "config.json").is_file():
            return Standing("finished")
        if saved and self.step and saved[-1].step >= self.step:
            return Standing("stopped", f"saved at step {saved[-1].step}")
        return Standing("killed", "it ended without a word")

    @cached_property
    def total_steps(self) -> int | None:
        """The steps of the whole run; None where they are not known yet."""
        steps = self.status.get("total_steps") or self.config.get("steps")
        if isinstance(steps, int):
            return steps
        for saved in reversed(self.checkpoints):
            steps = self._json(saved.path / "state.json").get("total_steps")
            if isinstance(steps, int):
                return steps
        return None

    @cached_property
    def begun(self) -> datetime | None:
        """When the run began; of one that did not say, by its name, or by its oldest file."""
        try:
            return datetime.fromisoformat(self.status["begun"])
        except (KeyError, TypeError, ValueError):
            pass
        if named := _NAMED.match(self.path.name):
            with suppress(ValueError):  # digits that are no date
                return datetime.strptime(named[1], "%Y%m%d-%H%M%S").astimezone(UTC)
        files = [entry.stat().st_mtime for entry in os.scandir(self.path) if entry.is_file()]
        return datetime.fromtimestamp(min(files), UTC) if files else None

    # ── what it recorded ─────────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def tail(self) -> list[Line]:
        """The last steps, the newest last."""
        return self._lines(last_steps)

    @cached_property
    def evaluations(self) -> list[Line]:
        """The evaluations, the newest last."""
        return self._lines(evaluations)

    def _lines(self, read: Callable[[Path], list[Line]]) -> list[Line]:
        try:
            return read(self.path)
        except OSError as error:
            problem = f"'{METRICS_FILE}' cannot be read: {_first_line(error)}"
            self.problems += [problem] if problem not in self.problems else []
            return []

    @cached_property
    def step(self) -> int:
        """The last step that was recorded; 0 before the first."""
        steps = [line["step"] for line in (self.tail[-1:] + self.evaluations[-1:])]
        return int(max(steps, default=0))

    @property
    def loss(self) -> float | None:
        """The loss of the last step."""
        return number(self.tail[-1].get("loss")) if self.tail else None

    @property
    def last_eval(self) -> float | None:
        """The loss of the last evaluation."""
        return number(self.evaluations[-1]["eval_loss"]) if self.evaluations else None

    @property
    def best_eval(self) -> float | None:
        """The lowest loss of an evaluation."""
        losses = [number(line["eval_loss"]) for line in self.evaluations]
        return min((loss for loss in losses if loss is not None and not math.isnan(loss)), default=None)

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens a second over the last steps, waiting for data included."""
        return speed(self.tail[-SPEED_STEPS:])

    @cached_property
    def checkpoints(self) -> list[Saved]:
        """The committed checkpoints by step."""
        folders = sorted((self.path / "checkpoints").glob("step-*"))
        return [saved for folder in folders if (saved := _saved(folder))]

    @cached_property
    def cuts(self) -> list[tuple[int, int]]:
        """The steps that the record was cut back to, as runs resumed or went back, and how many lines each cut took."""
        found = []
        for path in self.path.glob("metrics.after-*.jsonl"):
            step = path.name.split("-", 1)[1].removesuffix(".jsonl")
            if step.isdecimal():
                found.append((int(step), path.read_bytes().count(b"\n")))
        return sorted(found)

    @property
    def resumes(self) -> list[Resume]:
        """The starts after the first, the newest last."""
        starts = self.status.get("resumed")
        return [
            Resume(start["step"], int(number(start.get("ranks")) or 1), _ended(start.get("before")))
            for start in (starts if isinstance(starts, list) else [])
            if isinstance(start, dict) and isinstance(start.get("step"), int)
        ]

    @cached_property
    def data_report(self) -> dict[str, Any]:
        """What the run found in its data; empty where it did not write it."""
        return self._json(self.path / REPORT_FILE)

    @cached_property
    def plan(self) -> dict[str, Any]:
        """What `hfx plan --json` said of the run, where somebody kept it as `plan.json`."""
        return self._json(self.path / PLAN_FILE)

    def _json(self, path: Path) -> dict[str, Any]:
        if not path.exists():
            return {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise ValueError("it is no object")
        except (OSError, ValueError, RecursionError) as error:
            self.problems.append(f"'{path.relative_to(self.path)}' is damaged: {_first_line(error)}")
            return {}
        return found


def _ended(said: Any) -> Standing:
    """Return how a run stands that said this of its end, which nobody says of one that was killed."""
    if not isinstance(said, dict) or not isinstance(said.get("how"), str):
        return Standing("killed", "it ended without a word")
    why, step = said.get("why"), said.get("step")
    return Standing(said["how"], str(why) if why else None, step if isinstance(step, int) else None)


def _saved(folder: Path) -> Saved | None:
    match = _STEP.fullmatch(folder.name)
    try:
        if not match or not (folder / "MANIFEST.json").is_file():
            return None
        sizes = [file.stat().st_size for file in folder.iterdir() if file.is_file()]
        return Saved(int(match[1]), folder, len(sizes), sum(sizes), (folder / "MANIFEST.json").stat().st_mtime)
    except FileNotFoundError:
        return None  # a run that is alive has just dropped it


def number(value: Any) -> float | None:
    """Return a figure as a number, NaN and infinity included, or None where it is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def speed(steps: list[Line]) -> float | None:
    """Return tokens a second over some steps, or None where they do not tell."""
    tokens = seconds = 0.0
    for line in steps:
        took = [number(line.get(name)) for name in ("tokens", "step_seconds", "data_seconds")]
        if any(value is None for value in took):
            continue
        of_step, *parts = (value or 0.0 for value in took)
        tokens, seconds = tokens + of_step, seconds + sum(parts)
    return tokens / seconds if seconds > 0 else None


def _mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _first_line(error: BaseException) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return next(iter(str(error).splitlines()), type(error).__name__)
