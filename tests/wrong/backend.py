"""Backends that are wrong."""

from __future__ import annotations

from typing import Any

from hfx import Plugin, hookimpl


def _torch(run: Any, kind: str) -> Any:
    from wrong import backend_impl

    return getattr(backend_impl, kind)(run)


class Averaging(Plugin):
    """Halves the gradient, as an engine on two ranks that averages would."""

    @hookimpl
    def hfx_backend(self, run: Any) -> Any:
        return _torch(run, "Averaging")


class Replacing(Plugin):
    """Keeps the gradient of the last micro-step only."""

    @hookimpl
    def hfx_backend(self, run: Any) -> Any:
        return _torch(run, "Replacing")


class ClippedNorm(Plugin):
    """Reports the norm after clipping."""

    @hookimpl
    def hfx_backend(self, run: Any) -> Any:
        return _torch(run, "ClippedNorm")


class Trusting(Plugin):
    """Takes every gradient for a number."""

    @hookimpl
    def hfx_backend(self, run: Any) -> Any:
        return _torch(run, "Trusting")


class Unclipped(Plugin):
    """Never clips."""

    @hookimpl
    def hfx_backend(self, run: Any) -> Any:
        return _torch(run, "Unclipped")


class Amnesia(Plugin):
    """Saves no state of the optimizer."""

    @hookimpl
    def hfx_backend(self, run: Any) -> Any:
        return _torch(run, "Amnesia")


class Doubling(Plugin):
    """Doubles what it reduces."""

    @hookimpl
    def hfx_backend(self, run: Any) -> Any:
        return _torch(run, "Doubling")


class Stale(Plugin):
    """Exports the weights that the run began with."""

    @hookimpl
    def hfx_backend(self, run: Any) -> Any:
        return _torch(run, "Stale")


class Hoarding(Plugin):
    """Keeps the gradients of a step for the next one."""

    @hookimpl
    def hfx_backend(self, run: Any) -> Any:
        return _torch(run, "Hoarding")


_NORM, _CLIP = "a step reports the norm before clipping", "clipping shortens the step"
_PLAIN = "training is that of plain torch"
WRONG = {
    Hoarding: {
        _PLAIN,
        "a step clears the gradients",
        "a gradient that is no number is skipped",
        "a run on it continues to the bit",
    },
    Averaging: {_PLAIN, _NORM, _CLIP},
    Replacing: {"micro steps add up to one step"},
    ClippedNorm: {_NORM},
    Trusting: {"a gradient that is no number is skipped"},
    Unclipped: {_PLAIN, _CLIP},
    Amnesia: {"its state is by parameter name", "a run on it continues to the bit"},
    Doubling: {"reducing over one process changes nothing"},
    Stale: {"exporting yields the whole model"},
}
