"""The two ways to show a run's progress: a live bar, or a line now and then."""

from __future__ import annotations

import math
import time
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


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
        self._last = -math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def step(self, metrics: dict[str, Any]) -> None:
        """Print the step if a line is due."""
        self._speed.add(metrics)
        now = time.monotonic()
        if now - self._last >= self._every or metrics["step"] == self._total_steps:
            self._last = now
            self.say(f"step {metrics['step']}/{self._total_steps}  {figures(metrics)}  {self._speed.read()}")

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
        self._progress.update(self._task, completed=metrics["step"], description=f"{figures(metrics)}  {speed.read()}")

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
