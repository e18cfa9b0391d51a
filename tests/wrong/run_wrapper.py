"""Wrappers of the run that are wrong."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from hfx import Plugin, RunResult, hookimpl


class Meddling(Plugin):
    """Changes the model before the run."""

    @hookimpl(wrapper=True)
    def hfx_run(self, run: Any) -> Generator[None, Any, Any]:
        if run.step == 0:
            for parameter in run.model.parameters():
                parameter.data.mul_(0.9)
        return (yield)


class Swallowing(Plugin):
    """Takes a failure for the end."""

    @hookimpl(wrapper=True)
    def hfx_run(self, run: Any) -> Generator[None, Any, Any]:
        try:
            return (yield)
        except OSError:
            return run.result()


class Forgetting(Plugin):
    """Forgets that the run was stopped."""

    @hookimpl(wrapper=True)
    def hfx_run(self) -> Generator[None, Any, Any]:
        result = yield
        return RunResult(result.path, result.metrics, result.step)


class Bare(Plugin):
    """Loses the figures."""

    @hookimpl(wrapper=True)
    def hfx_run(self) -> Generator[None, Any, Any]:
        result = yield
        return RunResult(result.path, {}, result.step, result.stopped)


WRONG = {
    Meddling: {"training is as it would be without it"},
    Swallowing: {"lets failures through"},
    Forgetting: {"stops with a checkpoint when asked"},
    Bare: {"trains every step of the run"},
}
