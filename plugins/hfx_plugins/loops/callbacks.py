"""Callbacks of the Trainer, in a run of hfx."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import PrivateAttr

from hfx import ConfigError, HfxError, Plugin, Problem, Run, RunResult, hookimpl

if TYPE_CHECKING:
    from hfx_plugins.loops.held_callbacks_impl import Held


class Callbacks(Plugin):
    """Tell `transformers.TrainerCallback`s of a run's events, and do what they ask for through `control`.

    Works with hfx's own loop, on every backend, and with `hf_trainer`. All ranks have the callbacks, and do what any of
    them asks for. Callbacks that keep state for checkpoints (`ExportableState`) have it again when the run is resumed.
    From Python, `Callbacks.of(MyCallback())` takes objects.
    """

    classes: tuple[str, ...] = ()
    """Classes to make callbacks of, as `package.module:Class`; of installed packages that the policy allows."""
    arguments: dict[str, dict[str, Any]] | None = None
    """Arguments of classes by their names: `{EarlyStoppingCallback: {early_stopping_patience: 3}}`."""
    best: str | None = None
    """The figure of evaluations by which `state.best_metric` goes, as `metric_for_best_model` says: `eval_loss`."""
    greater_is_better: bool | None = None
    """Whether the best is the greatest; none: unless its name ends in `loss`."""
    given: tuple[str, ...] = ()
    """Classes of the objects that `Callbacks.of` was given; written by it, so that a resumed run misses none."""
    _objects: list[Any] = PrivateAttr(default_factory=list)

    @classmethod
    def of(cls, *callbacks: Any, **options: Any) -> Self:
        """Return the plugin around callbacks that exist."""
        named = tuple(f"{type(c).__module__}:{type(c).__qualname__}" for c in callbacks)
        plugin = cls(given=named, **options)
        plugin._objects = list(callbacks)
        return plugin

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report classes that are not there or not allowed, and objects that only Python has."""
        from hfx.named import check_named

        if not self.classes and not self.given:
            yield Problem("'callbacks' has none; name one with '--callbacks.classes package.module:Class'")
        if len(self.given) != len(self._objects):
            yield Problem(
                f"the callback '{self.given[0]}' was given from Python, and is not here; go on from there: "
                "`hfx.train(resume=..., plugins=[Callbacks.of(...)])`"
            )
        names = [text.partition(":")[2] for text in self.classes]
        for name in self.arguments or {}:
            if name not in names:
                yield Problem(
                    f"'callbacks.arguments' has arguments of '{name}', which 'callbacks.classes' does not name"
                )
        for text in self.classes:
            try:
                check_named(text, "callbacks.classes", run.resolved.policy)
                if "torch" in sys.modules:  # the second time, when imports cost nothing more
                    self._class(text, run)
            except ConfigError as error:
                yield Problem(str(error))

    @hookimpl(wrapper=True)
    def hfx_run(self, run: Run) -> Generator[None, RunResult, RunResult]:
        """Make the callbacks, and tell them of the training's beginning and end.

        Raises:
            ConfigError: a class cannot be made with its arguments.
        """
        from hfx_plugins.loops.callbacks_impl import Teller
        from hfx_plugins.loops.held_callbacks_impl import Held

        held = Held([*self._objects, *(self._made(text, run) for text in self.classes)], self)
        run.local["callbacks"] = held
        if run.resolved.roles["run"].plugin == "hf_trainer":
            return (yield)  # the Trainer tells them
        with Teller(run, held).telling() as teller:
            held.teller = teller
            result = yield
            teller.end()
        return result

    @hookimpl
    def hfx_step_end(self, run: Run, metrics: dict[str, Any]) -> None:
        """Tell of a step, and ask for what they ask for."""
        if teller := self._held(run).teller:
            teller.step_ended(metrics)

    @hookimpl
    def hfx_evaluated(self, run: Run, metrics: dict[str, Any]) -> None:
        """Tell of an evaluation."""
        if teller := self._held(run).teller:
            teller.evaluated(metrics)

    @hookimpl
    def hfx_saved(self, run: Run, path: Path) -> None:
        """Tell of a checkpoint."""
        if teller := self._held(run).teller:
            teller.saved(path)

    def _held(self, run: Run) -> Held:
        held: Held = run.local["callbacks"]
        return held

    def _class(self, text: str, run: Run) -> Any:
        from transformers import TrainerCallback

        from hfx.named import class_named

        return class_named(text, "callbacks.classes", run.resolved.policy, TrainerCallback)

    def _made(self, text: str, run: Run) -> Any:
        kind, name = self._class(text, run), text.partition(":")[2]
        try:
            return kind(**(self.arguments or {}).get(name, {}))
        except HfxError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"'{text}' cannot be made ({type(error).__name__}: {reason}); look at 'callbacks.arguments.{name}'"
            ) from error
