"""Telling callbacks of the Trainer what happens in hfx's own loop, as the Trainer would."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Self

from transformers import TrainerCallback, TrainerControl, TrainerState

from hfx.errors import HfxError, IncompatibleError, PluginError
from hfx_plugins.loops.training_arguments_impl import arguments_of, follow, own_accelerate_state
from hfx_plugins.loops.wishes_impl import ASKED, agree

if TYPE_CHECKING:
    from torch import nn

    from hfx import Run
    from hfx_plugins.loops.held_callbacks_impl import Held


class Teller:
    """Tells the callbacks of a run, and carries out what any rank's ask for."""

    def __init__(self, run: Run, held: Held) -> None:
        self._run, self._held = run, held
        with own_accelerate_state():
            self._args = arguments_of(run, held.best, held.greater)
        self._state, self._control = TrainerState(), TrainerControl()
        self._state.is_world_process_zero = run.world.is_main
        self._state.is_local_process_zero = run.world.local_rank == 0
        for kind in ("logging", "eval", "save"):
            setattr(self._state, f"{kind}_steps", getattr(self._args, f"{kind}_steps"))
        self._losses: list[float] = []
        self._epoch = self._whole_epochs()
        self._forwards = (-1, 0)
        self._stops = False

    @contextmanager
    def telling(self) -> Iterator[Self]:
        """Tell that training begins; until the context is left, tell of what goes on within steps."""
        run = self._run
        follow(self._state, run)
        self._held.recall(run, self._state)
        self._tell("on_init_end")
        self._tell("on_train_begin")
        with ExitStack() as stack:
            for handle in self._watched():
                stack.callback(handle.remove)
            if run.step < run.total_steps:
                self._tell("on_epoch_begin")
            if self._control.should_training_stop:
                run.request_stop(ASKED)
            yield self

    def end(self) -> None:
        """Tell that training ended."""
        follow(self._state, self._run)
        self._tell("on_train_end")

    def step_ended(self, metrics: dict[str, Any]) -> None:
        """Tell of a step, of an epoch that ended with it, and of the line that is logged."""
        run, control = self._run, self._control
        if run.step <= self._state.global_step:  # the run went back
            self._held.recall(run, self._state)
        follow(self._state, run)
        self._losses.append(metrics["loss"])
        ends = run.step >= run.total_steps
        logged = ends or run.due(run.config.log_every)
        control.should_log, control.should_epoch_stop = logged, False
        control.should_evaluate, control.should_save = run.evaluation_due(), run.save_due()
        control.should_training_stop = ends or run.stopping
        self._tell("on_step_end")
        if (whole := self._whole_epochs()) != self._epoch:
            self._epoch = whole
            self._tell("on_epoch_end")
            if not ends:
                self._tell("on_epoch_begin")
        agree(self._run, self._control)
        if self._control.should_log:
            if not logged:
                run.log(metrics)
            self._log({"loss": fmean(self._losses), "grad_norm": metrics["grad_norm"], "learning_rate": metrics["lr"]})
            self._losses.clear()
        self._ask(ends)
        self._held.remember(run, self._state)

    def evaluated(self, figures: dict[str, Any]) -> None:
        """Tell of an evaluation, then see whether it was the best."""
        follow(self._state, self._run)
        self._log(dict(figures))
        self._control.should_evaluate = False
        self._tell("on_evaluate", metrics=dict(figures))
        self._look_for_best(figures)
        agree(self._run, self._control)
        self._control.should_evaluate = False
        self._ask(self._run.step >= self._run.total_steps)
        self._held.remember(self._run, self._state)

    def saved(self, path: Path) -> None:
        """Tell of a checkpoint."""
        if self._state.best_global_step and path.name.endswith(f"-{self._state.best_global_step:08d}"):
            self._state.best_model_checkpoint = str(path)
        self._control.should_save = False
        self._tell("on_save")

    # ── telling ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _tell(self, event: str, **more: Any) -> None:
        run = self._run
        for callback in self._held.callbacks:
            if not _hears(callback, event):
                continue
            try:
                answer = getattr(callback, event)(
                    self._args, self._state, self._control, model=run.model, processing_class=run.tokenizer,
                    tokenizer=run.tokenizer, optimizer=run.optimizer, lr_scheduler=run.schedule, train_dataloader=None,
                    eval_dataloader=None, **more,
                )  # fmt: skip
            except HfxError:
                raise
            except Exception as error:
                reason = " ".join(str(error).split()) or "no message"
                raise PluginError(
                    f"the callback '{type(callback).__name__}' raised {type(error).__name__} in '{event}': {reason}; "
                    "mend it, or take it away; `--traceback` shows where"
                ) from error
            self._control = answer if answer is not None else self._control

    def _log(self, logs: dict[str, float]) -> None:
        logs["epoch"] = self._state.epoch
        self._state.log_history.append({**logs, "step": self._state.global_step})
        self._control.should_log = False
        self._tell("on_log", logs=logs)

    def _watched(self) -> Iterator[Any]:
        """Watch the module and the optimizer, where a callback hears of what goes on within a step."""
        run = self._run
        if any(_hears(c, event) for c in self._held.callbacks for event in ("on_step_begin", "on_substep_end")):
            yield run.module.register_forward_pre_hook(lambda module, _: self._forward(module))
        if any(_hears(c, "on_pre_optimizer_step") for c in self._held.callbacks):
            yield run.optimizer.register_step_pre_hook(lambda *_: self._tell("on_pre_optimizer_step"))
        if any(_hears(c, "on_optimizer_step") for c in self._held.callbacks):
            yield run.optimizer.register_step_post_hook(lambda *_: self._tell("on_optimizer_step"))

    def _forward(self, module: nn.Module) -> None:
        """Tell that a step begins before its first forward pass, and before each later one that one is done."""
        if not module.training:
            return
        step, number = self._forwards
        self._forwards = (self._run.step, number + 1 if step == self._run.step else 1)
        if self._forwards[1] > 1:
            self._tell("on_substep_end")
            return
        self._control.should_log = self._control.should_evaluate = self._control.should_save = False
        self._tell("on_step_begin")

    def _whole_epochs(self) -> int:
        return math.floor(self._run.epoch + 1e-9)

    # ── what they ask for ────────────────────────────────────────────────────────────────────────────────────────────

    def _ask(self, ends: bool) -> None:
        """Ask the loop for what comes after the listeners; a run ends behind the evaluation that is due."""
        run, control = self._run, self._control
        if control.should_evaluate:
            run.ask_for("evaluation")
        if control.should_save:
            run.ask_for("checkpoint")
        self._stops = (self._stops or control.should_training_stop) and not ends
        if self._stops and not run.stopping and not (run.evaluation_due() and run.has_eval):
            run.stop_now(ASKED)

    def _look_for_best(self, figures: dict[str, Any]) -> None:
        """Let the state know the best figure, as the Trainer does, after callbacks heard of it.

        Raises:
            IncompatibleError: there is no such figure.
        """
        best, state = self._held.best, self._state
        if best is None:
            return
        name = best if best.startswith("eval_") else f"eval_{best}"
        if name not in figures:
            raise IncompatibleError(
                f"'callbacks.best' is '{best}', and an evaluation has {', '.join(figures)}; name one"
            )
        found = float(figures[name])
        if state.best_metric is None or (
            found > state.best_metric if self._held.greater else found < state.best_metric
        ):
            state.best_metric, state.best_global_step = found, state.global_step


def _hears(callback: Any, event: str) -> bool:
    """Return whether a callback has a method of its own for an event."""
    return getattr(type(callback), event, None) is not getattr(TrainerCallback, event) or event in vars(callback)
