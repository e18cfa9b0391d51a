"""Launchers that are wrong."""

from __future__ import annotations

from typing import Any

from hfx import Plugin, RunResult, hookimpl


class Twice(Plugin):
    """Calls main a second time."""

    @hookimpl
    def hfx_launch(self, run: Any, main: Any) -> Any:
        main(run)
        return main(run)


class Swallowing(Plugin):
    """Takes a failure for a result."""

    @hookimpl
    def hfx_launch(self, run: Any, main: Any) -> Any:
        try:
            return main(run)
        except ArithmeticError:
            return RunResult(run.output, {}, run.step)


class Forgetting(Plugin):
    """Forgets that the run was stopped."""

    @hookimpl
    def hfx_launch(self, run: Any, main: Any) -> Any:
        result = main(run)
        return RunResult(result.path, result.metrics, result.step)


class Idle(Plugin):
    """Never calls main."""

    @hookimpl
    def hfx_launch(self, run: Any) -> Any:
        return RunResult(run.output, {"loss": 1.25, "eval_loss": 2.5}, 3)


_ONCE, _RESULT, _FAILS = (
    "calls main once in every process",
    "returns what main returned",
    "lets failures through",
)
WRONG = {Twice: {_ONCE}, Swallowing: {_FAILS}, Forgetting: {_RESULT}, Idle: {_ONCE, _RESULT, _FAILS}}
