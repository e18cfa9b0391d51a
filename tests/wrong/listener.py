"""Listeners that are wrong."""

from __future__ import annotations

from typing import Any

from hfx import Plugin, hookimpl


class Meddling(Plugin):
    """Changes the weights."""

    @hookimpl
    def hfx_step_end(self, run: Any) -> None:
        for parameter in run.model.parameters():
            parameter.data.mul_(0.999)


class Rounding(Plugin):
    """Rounds the figures, for everybody behind it."""

    @hookimpl
    def hfx_step_end(self, metrics: dict[str, Any]) -> None:
        metrics["loss"] = round(metrics["loss"])


class Hoarding(Plugin):
    """Keeps an object in the run's state."""

    @hookimpl
    def hfx_step_end(self, run: Any) -> None:
        run.state["hoarding"]["run"] = {run.step}


class Impatient(Plugin):
    """Ends every run."""

    @hookimpl
    def hfx_step_end(self, run: Any) -> None:
        run.request_stop("enough")


class Dropping(Plugin):
    """Leaves the model in evaluation mode, with gradients for every second parameter only."""

    @hookimpl
    def hfx_evaluated(self, run: Any) -> None:
        for parameter in list(run.model.parameters())[::2]:
            parameter.requires_grad_(False)


_SAME, _FIGURES = "training is as it would be without it", "figures are the same before and after it"
_END, _SAVED = "the run goes on to its end", "what it remembers is saved"
WRONG = {
    Meddling: {_SAME},
    Rounding: {_FIGURES},
    Hoarding: {_SAME, _FIGURES, _END, _SAVED},
    Impatient: {_SAME, _END, _SAVED},
    Dropping: {_SAME},
}
