"""What is asked of a launcher: `main` once in every process, and whatever comes of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hfx.protocols import RunResult
from hfx.run import Run
from hfx.testing.bench import Bench


@dataclass(frozen=True)
class Main:
    """Stands for `hfx.api.main`; writes down that it was called, and can be sent to other processes."""

    calls: Path
    stopped: str | None = None
    fails: bool = False

    def __call__(self, run: Run) -> RunResult:
        """Write a line and return a result, or fail."""
        with self.calls.open("a") as file:
            file.write(f"{os.getpid()} {run.world.rank} {run.world.size} {type(run).__name__}\n")
        if self.fails:
            raise ArithmeticError("the kit's main fails")
        return self.result(run.output)

    def result(self, path: Path) -> RunResult:
        """Return the result that `main` returns."""
        return RunResult(path, {"loss": 1.25, "eval_loss": 2.5}, 3, self.stopped)


def calls_main_once_in_every_process(bench: Bench) -> None:
    """One process a rank, ranks from 0 on, each with the run."""
    main = Main(bench.fresh("calls") / "calls")
    with bench.run() as run:
        run.hooks.launch(run=run, main=main)
    calls = [line.split() for line in main.calls.read_text().splitlines()] if main.calls.exists() else []
    assert calls, "`main` is never called"
    assert all(call[3] == "Run" for call in calls), "`main` is called with something else than the run"
    assert len({call[0] for call in calls}) == len(calls), "`main` is called more than once in one process"
    assert sorted(int(call[1]) for call in calls) == list(range(int(calls[0][2]))), "the ranks are not 0, 1, 2, ..."


def returns_what_main_returned(bench: Bench) -> None:
    """Also of a run that was stopped."""
    for stopped in (None, "SIGTERM"):
        main = Main(bench.fresh("calls") / "calls", stopped)
        with bench.run() as run:
            result, expected = run.hooks.launch(run=run, main=main), main.result(run.output)
        assert result == expected, f"`main` returned {expected}, and the launcher {result}"


def lets_failures_through(bench: Bench) -> None:
    """A run that failed must not look like one that ended well."""
    main = Main(bench.fresh("calls") / "calls", fails=True)
    with bench.run() as run:
        try:
            run.hooks.launch(run=run, main=main)
        except Exception:  # noqa: BLE001 - whichever it is
            return
    raise AssertionError("`main` failed, and the launcher returned a result")


LAUNCH = (calls_main_once_in_every_process, returns_what_main_returned, lets_failures_through)
