"""The two ways to show a run to whoever watches it: a live view on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import time
from collections import deque
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hfx.cli import shown
from hfx.figures import Follower, Line, is_evaluation, is_event, is_step
from hfx.redact import redacted
from hfx.run_folder import SPEED_STEPS, RunFolder, Standing, number, speed

REFRESH = 1.0
"""Seconds between two looks at the folder."""
GRACE = 5.0
"""Seconds for which a run that ended without a word may be between two starts of its launcher."""
GRACE_OF_RANKS = 60.0
"""The same for several processes, which take longer to begin again."""
_EVENTS, _EVALUATIONS = 5, 4
_BARS = "▁▂▃▄▅▆▇█"
_STYLES = {"running": "cyan", "finished": "green", "stopped": "yellow", "failed": "red", "killed": "red"}


class Watched:
    """What is known of a run so far, and what came since the last look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._follower = Follower(path)
        self._gone_since: float | None = None
        self._forget()
        self.standing = Standing("running")
        self.new: list[Line] = []
        """What the last look found."""
        self.cut: int | None = None
        """The step that the last look found the record cut back to; None for none."""
        self.look()

    def _forget(self) -> None:
        self.steps: deque[Line] = deque(maxlen=SPEED_STEPS)
        self.losses: list[float] = []
        self.evaluations: list[Line] = []
        self.events: list[Line] = []

    def look(self) -> None:
        """Read what is new."""
        self.folder = RunFolder(self.path)
        # How it stands is asked first: what a run wrote before it ended is then read for certain.
        self.standing = self._settled(self.folder.standing())
        cut, found = self._follower.read()
        known = [*self.events, *self.evaluations, *self.steps] if cut else []
        if cut:
            self._forget()
        for line in found:
            self._take(line)
        # What a cut left is there as it was.
        self.cut = max((int(line["step"]) for line in found if line in known), default=0) if cut else None
        at = -1 if self.cut is None else self.cut
        self.new = [line for line in found if line["step"] > at or (line["step"] == at and line not in known)]

    def _take(self, line: Line) -> None:
        if is_event(line):
            self.events.append(line)
        elif is_evaluation(line):
            self.evaluations.append(line)
        elif is_step(line):
            self.steps.append(line)
            loss = number(line["loss"])
            self.losses.append(math.nan if loss is None else loss)

    def _settled(self, found: Standing) -> Standing:
        """Return how the run stands; one that is gone without a word may be started again by its launcher."""
        if found.how != "killed":
            self._gone_since = None
            return found
        if self._gone_since is None:
            self._gone_since = time.monotonic()
        ranks = number(self.folder.status.get("ranks")) or 1
        patience = GRACE if ranks == 1 else GRACE_OF_RANKS
        seen_alive = self.standing.how == "running" and self.losses
        waits = seen_alive and time.monotonic() - self._gone_since < patience
        return Standing("running", "it does not answer") if waits else found

    @property
    def step(self) -> int:
        """The last step that was recorded."""
        return int(max((line["step"] for line in (*list(self.steps)[-1:], *self.evaluations[-1:])), default=0))

    @property
    def left(self) -> float | None:
        """Seconds that the steps that are left will take, at the speed of the last ones."""
        total = self.folder.total_steps
        taken = [
            (number(line.get("step_seconds")) or 0.0) + (number(line.get("data_seconds")) or 0.0) for line in self.steps
        ]
        return (total - self.step) * sum(taken) / len(taken) if total and taken else None


def follow(watched: Watched, every: float) -> Standing:
    """Show a run until it ends, and return how it did."""
    console = Console()
    return _live(watched, console) if console.is_terminal else _lines(watched, console, every)


# ── on a terminal ────────────────────────────────────────────────────────────────────────────────────────────────────


def _live(watched: Watched, console: Console) -> Standing:
    with Live(view(watched, console.width), console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        while watched.standing.how == "running":
            time.sleep(REFRESH)
            watched.look()
            live.update(view(watched, console.width), refresh=True)
    return watched.standing


def view(watched: Watched, width: int) -> RenderableType:
    """Return the whole view of a run, so many columns wide."""
    standing, total, step = watched.standing, watched.folder.total_steps, watched.step
    title = Text.assemble((str(watched.path), "bold"), "  ", (standing.how, _STYLES.get(standing.how, "bold")))
    if standing.why:
        title.append(f"  {_flat(standing.why)}")
    progress = Table.grid(padding=(0, 2), expand=True)
    progress.add_column(ratio=1)
    progress.add_column(justify="right", no_wrap=True)
    of = f"/{total:,}  {step / total:.0%}" if total else ""
    left = f"  {shown.duration(watched.left)} left" if standing.how == "running" and watched.left else ""
    progress.add_row(ProgressBar(total=total or 1, completed=min(step, total or 1)), f"step {step:,}{of}{left}")
    parts: list[RenderableType] = [title, progress]
    if watched.steps:
        parts.append(_figures(watched.steps[-1], watched, width))
    elif standing.how == "running":
        parts.append(Text("no step yet", style="dim"))
    parts += [Text(_flat(_evaluation(line))) for line in watched.evaluations[-_EVALUATIONS:]]
    parts += [Text(_event(line), style="yellow") for line in watched.events[-_EVENTS:]]
    if saved := watched.folder.checkpoints:
        parts.append(Text(f"saved at step {saved[-1].step:,}, {shown.size(saved[-1].size)}", style="dim"))
    parts += [Text(_flat(problem), style="red") for problem in watched.folder.problems]
    return Group(*parts)


def _figures(last: Line, watched: Watched, width: int) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    loss = f"{shown.figure(last['loss'])}  {sparkline(watched.losses, max(8, min(60, width - 30)))}"
    table.add_row("loss", loss)
    rate, norm = (shown.figure(last.get(name), form) for name, form in (("lr", ".2e"), ("grad_norm", ".3g")))
    table.add_row("lr", f"{rate}  gradients' norm {norm}")
    table.add_row("speed", f"{shown.count(speed(list(watched.steps)))} tokens/s")
    table.add_row("memory", f"{shown.size(number(last.get('memory_bytes')))} at most")
    return table


def sparkline(values: list[float], width: int) -> str:
    """Return a curve as at most so many characters, the newest at its end; a gap where a value is not finite."""
    each = max(1, -(-len(values) // width))
    pieces = [values[at : at + each] for at in range(0, len(values), each)]
    means = [_mean(piece) for piece in pieces]
    finite = [value for value in means if value is not None]
    if not finite:
        return ""
    low, span = min(finite), max(finite) - min(finite)
    top = len(_BARS) - 1
    return "".join("·" if v is None else _BARS[round(top * (v - low) / span) if span else 0] for v in means)


def _mean(values: list[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None


# ── elsewhere ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _lines(watched: Watched, console: Console, every: float) -> Standing:
    """Print evaluations and events as they come, and steps now and then; first how far the run is."""
    printed = -math.inf
    if watched.standing.how == "running":
        _say(console, _standing_line(watched))
    watched.new = watched.new[-1:] if every else watched.new
    while True:
        if watched.cut is not None:
            _say(console, f"the record was cut back to step {watched.cut:,}")
        for line in watched.new:
            if is_event(line):
                _say(console, _event(line))
            elif is_evaluation(line):
                _say(console, _evaluation(line))
            elif is_step(line) and (time.monotonic() - printed >= every or line["step"] == watched.folder.total_steps):
                printed = time.monotonic()
                _say(console, _step(line, watched))
        if watched.standing.how != "running":
            _say(console, _standing_line(watched))
            return watched.standing
        time.sleep(REFRESH)
        watched.look()


def _say(console: Console, line: str) -> None:
    console.print(_flat(line), markup=False, highlight=False, soft_wrap=True)


def _standing_line(watched: Watched) -> str:
    total, standing = watched.folder.total_steps, watched.standing
    of = f" of {total:,}" if total else ""
    return f"{watched.path}: {standing.how} at step {watched.step:,}{of}" + (
        f" ({standing.why})" if standing.why else ""
    )


def _step(line: Line, watched: Watched) -> str:
    total = watched.folder.total_steps
    of = f"/{total}" if total else ""
    rate, left = shown.figure(line.get("lr"), ".2e"), watched.left
    skipped = "  update skipped" if line.get("skipped") else ""
    told = f"step {int(line['step'])}{of}  loss {shown.figure(line['loss'], '.3f')}  lr {rate}{skipped}"
    told += f"  {shown.count(speed(list(watched.steps)))} tokens/s  {shown.size(number(line.get('memory_bytes')))}"
    return f"{told}  {shown.duration(left)} left" if left else told


def _evaluation(line: Line) -> str:
    found = {name: value for name, value in line.items() if name.startswith("eval_")}
    return f"step {int(line['step'])}  " + "  ".join(f"{name} {shown.figure(value)}" for name, value in found.items())


def _event(line: Line) -> str:
    return _flat(f"step {int(line['step'])}  {shown.event(line)}")


def _flat(text: str) -> str:
    """Return a text on one line, without secrets and without what would steer a terminal."""
    signs = redacted(text)
    return "".join(sign if sign.isprintable() else " " if sign.isspace() else "" for sign in signs)
