"""Loops that are wrong."""

from __future__ import annotations

from typing import Any

from hfx import Plugin, hookimpl


def _finish(run: Any) -> None:
    if run.evaluation_due() and not run.stopping:
        run.evaluate()
    if run.save_due():
        run.save()


class OneShort(Plugin):
    """Ends a step too early."""

    @hookimpl
    def hfx_run(self, run: Any) -> Any:
        for batch in run.batches():
            run.train_step(batch)
            _finish(run)
            if run.step == run.total_steps - 1:
                break
        run.evaluate()
        run.save()
        return run.result()


class Unsaved(Plugin):
    """Never saves."""

    @hookimpl
    def hfx_run(self, run: Any) -> Any:
        for batch in run.batches():
            run.train_step(batch)
            if run.evaluation_due() and not run.stopping:
                run.evaluate()
        return run.result()


class Deaf(Plugin):
    """Goes on when it is asked to stop."""

    @hookimpl
    def hfx_run(self, run: Any) -> Any:
        batches = run.order.batches(run.position)
        while run.step < run.total_steps:
            run.train_step(next(batches))
            if run.evaluation_due():
                run.evaluate()
            if run.due(run.config.save_every) or run.step == run.total_steps:
                run.save()
        return run.result()


class Swallowing(Plugin):
    """Takes a failure for the end."""

    @hookimpl
    def hfx_run(self, run: Any) -> Any:
        try:
            for batch in run.batches():
                run.train_step(batch)
                _finish(run)
        except OSError:
            pass
        return run.result()


class Restarting(Plugin):
    """Begins with the first batch again when it goes on."""

    @hookimpl
    def hfx_run(self, run: Any) -> Any:
        from hfx.order import Position

        for batch, _ in zip(run.order.batches(Position()), range(run.total_steps - run.step), strict=False):
            run.train_step(batch)
            _finish(run)
            if run.stopping:
                break
        return run.result()


class Blind(Plugin):
    """Never evaluates."""

    @hookimpl
    def hfx_run(self, run: Any) -> Any:
        for batch in run.batches():
            run.train_step(batch)
            if run.save_due():
                run.save()
        return run.result()


_TRAINS, _TELLS = "trains every step of the run", "tells listeners what happened"
_STOPS, _SAVED = "stops with a checkpoint when asked", "a finished run has a checkpoint"
_BIT = "a stopped run continues to the bit"
WRONG = {
    OneShort: {_TRAINS, _TELLS, _BIT},
    Unsaved: {_TELLS, _STOPS, _SAVED, _BIT},
    Deaf: {_STOPS, _BIT},
    Swallowing: {"lets failures through"},
    Restarting: {_BIT},
    Blind: {_TRAINS, _TELLS},
}
