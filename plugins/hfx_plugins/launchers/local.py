"""The launcher for this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hfx import Plugin, Problem, Run, RunResult, hookimpl


class Local(Plugin):
    """Runs in this process, or as one rank of those that torchrun started."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterable[Problem]:
        if run.config.nproc not in (1, "auto"):
            yield Problem(
                f"'local' starts one process and 'nproc' is {run.config.nproc}; "
                "start the run with 'torchrun -m hfx train' and a backend plugin for several processes"
            )

    @hookimpl
    def hfx_launch(self, run: Run, main: Callable[[Run], RunResult]) -> RunResult:
        return main(run)
