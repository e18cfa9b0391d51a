"""What the trackers share: when they are told what, and what one that fails may cost."""

from __future__ import annotations

import os
import sys
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from hfx import Plugin, hookimpl
from hfx_plugins.tracking.told_impl import Figures, numbers, recorded

if TYPE_CHECKING:
    from hfx import Run

FIRST_PAUSE = 60.0
"""Seconds after the first failure in which a tracker is left alone; each further one doubles them."""
LONGEST_PAUSE = 1800.0
MOST_WAITING = 100_000
"""Figures kept for a tracker that cannot be reached: about a kilobyte each."""
_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE",
          "MV2_COMM_WORLD_SIZE")  # fmt: skip


@dataclass
class Client:
    """An open tracker: how to log and to close it, and up to which step it has figures of steps and of evaluations."""

    log: Callable[[Figures], None]
    close: Callable[[bool], None]
    """Takes whether the run failed."""
    commit: Callable[[int], None] | None = None
    """Makes sure that the figures of a step are kept, where the tracker holds them back for others of that step."""
    trained: int = -1
    evaluated: int = -1
    whole: bool = False
    """True where it has all that was recorded before this process."""

    def tell(self, figures: Figures) -> None:
        """Log figures, unless the tracker has them already."""
        if figures.step <= (self.evaluated if figures.evaluation else self.trained):
            return
        self.log(figures)
        if figures.evaluation:
            self.evaluated = figures.step
        else:
            self.trained = figures.step


class Tracker(Plugin):
    """A listener that passes the figures of a run on to a tracking library, on the main rank alone."""

    @hookimpl
    def hfx_step_end(self, run: Run, metrics: dict[str, Any]) -> None:
        """Pass on a step's figures, as often as `metrics.jsonl` gets them."""
        if run.world.is_main:
            feed = self._feed(run, run.step)
            if run.due(run.config.log_every) or run.step == run.total_steps:
                feed.tell(Figures(run.step, numbers(metrics), evaluation=False))

    @hookimpl
    def hfx_evaluated(self, run: Run, metrics: dict[str, Any]) -> None:
        """Pass on the figures of an evaluation."""
        if run.world.is_main:
            self._feed(run, run.step + 1).tell(Figures(run.step, numbers(metrics), evaluation=True))

    @hookimpl
    def hfx_saved(self, run: Run) -> None:
        """Make sure that the tracker has what a resumed run will not tell it again."""
        if run.world.is_main:
            self._feed(run, run.step + 1).commit(run.step)

    @abstractmethod
    def _open(self, run: Run, first: int) -> Client:
        """Open the tracker for a process whose first step is `first`."""

    def _feed(self, run: Run, first: int) -> Feed:
        held = run.local.setdefault(self.name, {})
        if "feed" not in held:
            past = recorded(run.output / "metrics.jsonl", first)
            held["feed"] = run.enter(Feed(self.name, lambda: self._open(run, first), lambda: _failed(run), past))
        feed: Feed = held["feed"]
        return feed


def _failed(run: Run) -> bool:
    return run.step < run.total_steps and not run.stopping


class Feed:
    """Tells one tracker the figures of one run, in order.

    Whatever a tracker raises costs a warning, and not the run: its figures are kept and told again, ever more seldom.
    What the processes before this one recorded and the tracker lacks, it is told first.
    """

    def __init__(
        self,
        name: str,
        open_client: Callable[[], Client],
        failed: Callable[[], bool],
        past: Iterable[Figures] = (),
    ) -> None:
        self._name = name
        self._open_client = open_client
        self._failed = failed
        self._past = iter(past)
        self._next: Figures | None = None
        self._client: Client | None = None
        self._waiting: deque[Figures] = deque()
        self._lost = 0
        self._pause = 0.0
        self._again_at = 0.0
        self._warned = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._lacks:
            self._guarded(self._send)
        client = self._client
        if client is not None:
            self._guarded(lambda: client.close(self._failed()))
        if missing := self._lacks + self._lost:
            _warn(f"'{self._name}' lacks the last {missing} of what it was told; 'metrics.jsonl' has all of it")

    def tell(self, figures: Figures) -> None:
        """Pass figures on, or keep them for later where the tracker failed a moment ago."""
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self._lost += 1
        self._waiting.append(figures)
        if time.monotonic() >= self._again_at:
            self._guarded(self._send)

    def commit(self, step: int) -> None:
        """Let the tracker keep what it holds back of a step."""
        client = self._client
        if client is not None and client.commit is not None and not self._lacks:
            commit = client.commit
            self._guarded(lambda: commit(step))

    def _send(self) -> None:
        if self._client is None:
            self._client = self._open_client()
            self._past = iter(()) if self._client.whole else self._past
        while True:
            self._next = self._next or next(self._past, None) or (self._waiting.popleft() if self._waiting else None)
            if self._next is None:
                return
            self._client.tell(self._next)
            self._next = None

    @property
    def _lacks(self) -> int:
        return len(self._waiting) + (self._next is not None)

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            with process_of_its_own(), unattended(), redirect_stdout(sys.stderr):
                act()
        except Exception as error:  # noqa: BLE001  any failure of a tracker, whatever its library raises
            if not self._warned:
                _warn(f"'{self._name}' failed ({_brief(error)}); the run goes on, and tries again now and then")
                self._warned = True
            self._pause = min(max(FIRST_PAUSE, 2 * self._pause), LONGEST_PAUSE)
            self._again_at = time.monotonic() + self._pause


def _warn(line: str) -> None:
    print(f"hfx: warning: {line}", file=sys.stderr, flush=True)


def _brief(error: Exception) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:200]}{'...' if len(said) > 200 else ''}"


@contextmanager
def process_of_its_own() -> Iterator[None]:
    """Give accelerate's trackers, which only run in a state of accelerate, that of one process.

    Left to itself, the state would form a process group from the environment, on this rank alone.
    """
    from accelerate import PartialState

    if PartialState._shared_state:
        yield
        return
    hidden = {name: os.environ.pop(name) for name in _RANKS if name in os.environ}
    try:
        PartialState(cpu=True)
    finally:
        os.environ.update(hidden)
    try:
        yield
    finally:
        PartialState._reset_state()


@contextmanager
def unattended() -> Iterator[None]:
    """Let no library ask a question in the middle of a training, as wandb does for a key."""
    before = sys.stdin
    with open(os.devnull) as nothing:
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = before
