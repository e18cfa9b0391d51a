"""The two ways to show a run's progress: a live bar, or a line now and then."""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

STEPS = 50
"""Over so many steps it is said who was waited for."""
WORTH = 0.05
"""The share of the time from which on it is said."""
MUCH = 0.2
"""The share beyond which it is a warning."""
SECONDS = 5.0
"""What was waited in those steps at least, to warn."""


class Display(Protocol):
    """Shows steps, evaluations and lines of text until it is closed."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def step(self, metrics: dict[str, Any]) -> None:
        """Show the figures of a step."""

    def evaluated(self, step: int, metrics: dict[str, Any]) -> None:
        """Show the figures of an evaluation."""

    def say(self, line: str) -> None:
        """Show a line."""


class Speed:
    """Tokens per second over the steps since it was last read."""

    def __init__(self) -> None:
        self._tokens = 0
        self._seconds = 0.0

    def add(self, metrics: dict[str, Any]) -> None:
        """Count a step."""
        self._tokens += metrics["tokens"]
        self._seconds += metrics["step_seconds"] + metrics["data_seconds"]

    def read(self) -> str:
        """Return the speed as text and start anew."""
        speed = self._tokens / self._seconds if self._seconds else 0.0
        self._tokens, self._seconds = 0, 0.0
        return f"{speed:,.0f} tokens/s"


class Behind:
    """Who the other ranks waited for, over the last steps."""

    def __init__(self) -> None:
        self._steps: deque[tuple[int, float, float]] = deque(maxlen=STEPS)
        self._warned: set[int] = set()

    def add(self, metrics: dict[str, Any]) -> None:
        """Count a step; those of one process, and of engines that do not measure, have nothing to count."""
        if "straggler" in metrics:
            taken = metrics["step_seconds"] + metrics["data_seconds"]
            self._steps.append((metrics["straggler"], metrics["straggler_seconds"], taken))

    def most(self) -> tuple[int, float, float]:
        """Return the rank that was waited for longest, for how many seconds, and their share of the time."""
        waited: dict[int, float] = defaultdict(float)
        for rank, seconds, _ in self._steps:
            waited[rank] += seconds
        rank = max(waited, key=waited.__getitem__)
        return rank, waited[rank], min(1.0, waited[rank] / sum(taken for *_, taken in self._steps))

    def read(self) -> str:
        """Return who was waited for as text; empty where it is not worth a word."""
        if not self._steps:
            return ""
        rank, _, share = self.most()
        return f"  {share:.0%} waiting for rank {rank}" if share >= WORTH else ""

    def warning(self) -> str | None:
        """Return a warning, once for a rank, where it was behind for long."""
        if len(self._steps) < STEPS:
            return None
        rank, seconds, share = self.most()
        if share <= MUCH or seconds < SECONDS or rank in self._warned:
            return None
        self._warned.add(rank)
        return (
            f"warning: the others waited for rank {rank} in {share:.0%} of the time of the last {STEPS} steps; look at "
            "what else its machine does, and how it reads its data"
        )


def figures(metrics: dict[str, Any]) -> str:
    """Return loss and learning rate as text, and whether the update was skipped."""
    skipped = "  update skipped" if metrics.get("skipped") else ""
    return f"loss {metrics['loss']:.3f}  lr {metrics['lr']:.2e}{skipped}"


def evaluation(step: int, metrics: dict[str, Any]) -> str:
    """Return the figures of an evaluation as text."""
    shown = {name: value for name, value in metrics.items() if name.startswith("eval_") and isinstance(value, float)}
    return f"step {step}  " + "  ".join(f"{name} {value:.4g}" for name, value in shown.items())


class Lines:
    """A plain line every few seconds, and for the first and the last step."""

    def __init__(self, console: Console, total_steps: int, every: float) -> None:
        self._console = console
        self._total_steps = total_steps
        self._every = every
        self._speed = Speed()
        self._behind = Behind()
        self._last = -math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def step(self, metrics: dict[str, Any]) -> None:
        """Print the step if a line is due."""
        self._speed.add(metrics)
        self._behind.add(metrics)
        if warning := self._behind.warning():
            self.say(warning)
        now = time.monotonic()
        if now - self._last >= self._every or metrics["step"] == self._total_steps:
            self._last = now
            told = f"{figures(metrics)}  {self._speed.read()}{self._behind.read()}"
            self.say(f"step {metrics['step']}/{self._total_steps}  {told}")

    def evaluated(self, step: int, metrics: dict[str, Any]) -> None:
        """Print the figures."""
        self.say(evaluation(step, metrics))

    def say(self, line: str) -> None:
        """Print a line, whole: a log has no width."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class Bar:
    """A bar that stays at the bottom of the terminal while lines scroll above it."""

    def __init__(self, console: Console, step: int, total_steps: int) -> None:
        self._progress = Progress(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._behind = Behind()
        self._task = self._progress.add_task("", total=total_steps, completed=step)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def step(self, metrics: dict[str, Any]) -> None:
        """Move the bar."""
        speed = Speed()
        speed.add(metrics)
        self._behind.add(metrics)
        if warning := self._behind.warning():
            self.say(warning)
        told = f"{figures(metrics)}  {speed.read()}{self._behind.read()}"
        self._progress.update(self._task, completed=metrics["step"], description=told)

    def evaluated(self, step: int, metrics: dict[str, Any]) -> None:
        """Print the figures above the bar."""
        self.say(evaluation(step, metrics))

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(line, markup=False, highlight=False)


def open_display(step: int, total_steps: int, every: float, console: Console | None = None) -> Display:
    """Return a bar for a terminal and lines for anything else."""
    console = console or Console(stderr=True)
    return Bar(console, step, total_steps) if console.is_terminal else Lines(console, total_steps, every)
