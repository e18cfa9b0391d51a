"""The backend for one process."""

from __future__ import annotations

from collections.abc import Iterable

from hfx import Backend, Plugin, Problem, Run, hookimpl


class AutoBackend(Plugin):
    """One process on the fastest device it finds."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterable[Problem]:
        if run.world.size > 1:
            yield Problem(
                f"'auto_backend' trains in one process and {run.world.size} were started; "
                "start one, or name a backend plugin for several with '--plugin'"
            )

    @hookimpl
    def hfx_backend(self, run: Run) -> Backend:
        from hfx import TorchBackend

        return TorchBackend(run)
