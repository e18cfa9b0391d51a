"""Plugins of the kit that stand beside the one under test: they look, stop a run, or keep the arithmetic plain."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from hfx.params import ParamGroups
from hfx.plugin import Plugin, hookimpl
from hfx.run import Run


class OptimizerWitness(Plugin):
    """Keeps the optimizer that comes by."""

    @hookimpl(wrapper=True)
    def hfx_optimizer(self, run: Run) -> Generator[None, Any, Any]:
        """Pass it on."""
        run.local[self.name] = yield
        return run.local[self.name]


class PlainDescent(Plugin):
    """Plain gradient descent: what a step does can be said beforehand."""

    lr: float = 1.0
    """Learning rate."""

    @hookimpl
    def hfx_optimizer(self, params: ParamGroups) -> Any:
        """Return torch's SGD without momentum."""
        from torch.optim import SGD

        return SGD(params.groups(), lr=self.lr)


class EventWitness(Plugin):
    """Writes down which events came by, and with which figures."""

    @hookimpl
    def hfx_step_end(self, run: Run, metrics: dict[str, Any]) -> None:
        """Write down the step's figures."""
        self._seen(run).append(("step_end", run.step, {**metrics}))

    @hookimpl
    def hfx_evaluated(self, run: Run, metrics: dict[str, Any]) -> None:
        """Write down the evaluation's figures."""
        self._seen(run).append(("evaluated", run.step, {**metrics}))

    @hookimpl
    def hfx_saved(self, run: Run) -> None:
        """Write down the step."""
        self._seen(run).append(("saved", run.step, {}))

    def _seen(self, run: Run) -> list[tuple[str, int, dict[str, Any]]]:
        events: list[tuple[str, int, dict[str, Any]]] = run.local.setdefault(self.name, [])
        return events


class EarlyWitness(EventWitness):
    """The same, to stand before the plugin under test."""


class HalfWidth(Plugin):
    """Builds the model in bfloat16."""

    @hookimpl
    def hfx_precision(self) -> Any:
        """Return bfloat16 for everything."""
        return _HalfPrecision()


class _HalfPrecision:
    why = "asked for by the kit"
    scaler = None

    @property
    def dtype(self) -> Any:
        import torch

        return torch.bfloat16

    def autocast(self) -> AbstractContextManager[None]:
        return nullcontext()

    def convert(self, model: Any) -> Any:
        return model


class Stopper(Plugin):
    """Asks for the end of the run after a step."""

    after: int = 2
    """The step."""

    @hookimpl
    def hfx_step_end(self, run: Run) -> None:
        """Ask."""
        if run.step == self.after:
            run.request_stop("the kit")


class Failing(Plugin):
    """Fails at the first step, as a full disk would."""

    @hookimpl
    def hfx_step_end(self) -> None:
        """Fail."""
        raise OSError(28, "No space left on device", "metrics.jsonl")
