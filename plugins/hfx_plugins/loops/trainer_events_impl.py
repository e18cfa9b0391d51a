"""What the Trainer tells a run, and what a run tells the Trainer: before all other callbacks, and after them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from hfx.protocols import StepResult
from hfx_plugins.loops.training_arguments_impl import follow
from hfx_plugins.loops.wishes_impl import ASKED, agree

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from hfx_plugins.loops.hf_trainer_impl import RunTrainer


class Before(TrainerCallback):  # type: ignore[misc]
    """Hears of everything before other callbacks: the run takes note, its listeners are told."""

    def __init__(self, trainer: RunTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Go on where the run is."""
        trainer, run = self._trainer, self._trainer.run
        follow(state, run)
        trainer._initial_global_step = trainer._globalstep_last_logged = run.step
        if trainer.held:
            trainer.held.recall(run, state)

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Add up the losses, and see who wants to stop."""
        step = self._trainer.step
        step.laps.end("forward_backward")
        step.agree(self._trainer.total())

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Log the step, tell hfx's listeners, and say what is due."""
        trainer, run = self._trainer, self._trainer.run
        result = StepResult(trainer.norm, skipped=not math.isfinite(trainer.norm))
        trainer.losses.append(run.end_step(trainer.step, result)["loss"])
        follow(state, run)
        ends = run.step >= run.total_steps
        control.should_log = ends or run.due(run.config.log_every)
        control.should_evaluate = run.evaluation_due() and not run.stopping
        control.should_save = run.save_due()
        control.should_training_stop = ends or run.stopping


class After(TrainerCallback):  # type: ignore[misc]
    """Hears of everything after other callbacks: what they asked for is carried out."""

    def __init__(self, trainer: RunTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Make up for an evaluation that a stopped run did not make."""
        if self._trainer.run.step and self._trainer.run.evaluation_due():
            self._trainer.evaluate()
            if self._trainer.run.save_due():
                self._trainer._save_checkpoint()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Let the run end where a callback said so, and not before its last checkpoint.

        Raises:
            IncompatibleError: a callback asks for the end of an epoch.
        """
        run = self._trainer.run
        agree(run, control)
        if control.should_training_stop and run.step < run.total_steps and not run.stopping:
            run.stop_now(ASKED)
        if run.stopping or run.step >= run.total_steps:
            control.should_training_stop = True
            control.should_save = run.save_due()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """See what any rank's callbacks ask for."""
        agree(self._trainer.run, control)

    on_log = on_save = on_evaluate
