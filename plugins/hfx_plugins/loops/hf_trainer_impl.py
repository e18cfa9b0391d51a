"""A Trainer whose data, loss, evaluations and checkpoints are those of a run.

Its own are the control flow, `training_step`, clipping, the calls of optimizer and schedule, and callbacks. accelerate
sees no model, places nothing, forms no process group, and wraps an optimizer that it need not move.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
import transformers
from accelerate.optimizer import AcceleratedOptimizer
from torch.nn.parallel import DistributedDataParallel
from transformers import PrinterCallback, Trainer

from hfx.backend import TorchBackend
from hfx.errors import IncompatibleError
from hfx.loop import collate
from hfx_plugins.loops.trainer_events_impl import After, Before
from hfx_plugins.loops.training_arguments_impl import arguments_of, own_accelerate_state
from hfx_plugins.loops.wishes_impl import ASKED

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import TrainerControl

    from hfx import Run, RunResult
    from hfx.loop import Step
    from hfx.order import GlobalBatch
    from hfx.protocols import Batch
    from hfx_plugins.loops.held_callbacks_impl import Held

_BUILT_ON = ("_wrap_model", "_save_checkpoint", "_get_grad_norm", "_move_model_to_device", "get_batch_samples")
"""Methods of the Trainer that are overridden, and that another version may call by another name."""


def train(run: Run) -> RunResult:
    """Train a run by the Trainer, and return how it ended.

    Raises:
        IncompatibleError: backend, precision or transformers are others than it works with.
    """
    _refuse(run)
    if run.step >= run.total_steps or run.stopping:
        if run.evaluation_due():
            run.evaluate()
        if run.save_due():
            run.save()
        return run.result()
    held: Held | None = run.local.get("callbacks")
    with own_accelerate_state():
        trainer = RunTrainer(run, held)
        trainer.train()
        if run.step < run.total_steps and not run.stopping:
            run.stop_now(ASKED)
        if run.save_due():
            trainer._save_checkpoint()
    return run.result()


def _refuse(run: Run) -> None:
    if type(run.backend) is not TorchBackend and type(run.module) is not DistributedDataParallel:
        raise IncompatibleError(
            f"'hf_trainer' trains a model that each process holds, and the backend is '{type(run.backend).__name__}'; "
            "use '--plugin auto_backend', or leave 'hf_trainer' out"
        )
    if run.precision.scaler is not None:
        raise IncompatibleError(
            "'hf_trainer' scales no loss, and this precision needs it scaled; use '--plugin bf16', or leave it out"
        )
    if missing := [name for name in _BUILT_ON if not hasattr(Trainer, name)]:
        raise IncompatibleError(
            f"the Trainer of transformers {transformers.__version__} has no '{missing[0]}', which 'hf_trainer' builds "
            "on; install transformers 5.24, or leave 'hf_trainer' out"
        )


class RunTrainer(Trainer):  # type: ignore[misc]
    """Drives a run."""

    control: TrainerControl
    optimizer: torch.optim.Optimizer

    def __init__(self, run: Run, held: Held | None) -> None:
        self.run = run
        self.norm = 0.0
        """The norm of the step's gradients before clipping."""
        self.losses: list[float] = []
        """The losses of the steps since the last line that was logged."""
        self._batches = _Epochs(run)
        self._step: Step | None = None
        self._weights: list[float] = []
        self._totals: list[Tensor] = []
        self.held = held
        described: Any = run.model.config
        cached = getattr(described, "use_cache", None)
        args = arguments_of(run, held.best if held else None, held.greater if held else None)
        super().__init__(
            model=run.model,
            args=args,
            data_collator=run.batcher.collate,
            train_dataset=run.table("train"),
            eval_dataset=run.table("eval") if run.has_eval else None,
            processing_class=run.tokenizer,
            optimizers=(run.optimizer, run.schedule),
            callbacks=[Before(self), *(held.callbacks if held else ()), After(self)],
        )
        self.remove_callback(PrinterCallback)
        # The exported config is the model's, neither the Trainer's nor aligned with the tokenizer.
        self.processing_class = None
        if cached is not None:
            described.use_cache = cached
        elif hasattr(described, "use_cache"):
            del described.use_cache
        self.model_accepts_loss_kwargs = True  # the loss is divided by the step's units already
        self.accelerator.backward = self._backward

    # ── what accelerate would do ─────────────────────────────────────────────────────────────────────────────────────

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        """Leave the model where the backend put it."""

    def _wrap_model(self, model: nn.Module, *_: Any, **__: Any) -> nn.Module:
        """Return the run's module, `module(batch)`; what is wrapped already is not handed to accelerate."""
        return self.run.module

    def _backward(self, loss: Tensor, **_: Any) -> None:
        """Compute the gradients as the backend does: ranks add them up."""
        self.run.backend.backward(loss)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Return the run's optimizer."""
        if not isinstance(self.optimizer, _Finite):
            self.optimizer = _Finite(self.run.optimizer, self)
        return self.optimizer

    # ── a step ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def get_train_dataloader(self) -> Any:
        """Return the global batches, epoch by epoch."""
        return self._batches

    def get_batch_samples(
        self, epoch_iterator: Iterator[GlobalBatch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], int | None]:
        """Return the micro-batches of the next step, filled up with empty ones, and the units of its loss."""
        batch = next(epoch_iterator, None)
        if batch is None:
            self.control.should_epoch_stop = True
            self.control.should_training_stop = self.control.should_training_stop or self._batches.ended
            return [], None
        step = self._step = self.run.begin_step(batch)
        parts = step.parts()
        self._totals, self._weights = [], [weight for _, weight in parts]
        samples = [collate(self.run, part) for part, _ in parts]
        step.laps.end("data")
        return samples + [{}] * (num_batches - len(samples)), step.units

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None) -> Tensor:
        """Train on a micro-batch as the Trainer does; of the shorter last batch of an epoch some are empty."""
        if not inputs:
            return torch.zeros((), device=self.args.device)
        last = len(self._totals) == len(self._weights) - 1
        with self.run.backend.micro_step(last=last):
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Return a micro-batch's share of the step's loss, `()`: its sum over the units of the whole step."""
        step, micro = self.step, len(self._totals)
        step.seed(micro)
        with self.run.precision.autocast():
            total: Tensor = model(inputs)
        self._totals.append(total.detach() * self._weights[micro])
        return total * (self._weights[micro] / step.units)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        found = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.norm = float(found)
        return found

    @property
    def step(self) -> Step:
        """The step under way."""
        assert self._step is not None
        return self._step

    def total(self) -> Tensor:
        """Return this step's summed loss, `()`, float64."""
        total = torch.zeros((), dtype=torch.float64)
        for part in self._totals:
            total += part.double().cpu()
        return total

    # ── what follows a step ──────────────────────────────────────────────────────────────────────────────────────────

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Tell callbacks figures; the loss is the mean of the run's own since the line before."""
        if "loss" in logs and self.losses:
            logs["loss"] = fmean(self.losses)
            self.losses.clear()
        super().log(logs, start_time)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Return the run's own figures, callbacks told of them."""
        figures = self.run.evaluate()
        self.control.should_evaluate = False
        if not figures:
            return {f"eval_{str(self.args.metric_for_best_model).removeprefix('eval_')}": math.nan}
        self.log(dict(figures))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, dict(figures))
        self.control.should_save = self.control.should_save or self.run.save_due()  # a plugin chose this step
        if self.control.should_training_stop and self.run.step < self.run.total_steps:
            self.run.stop_now(ASKED)
            self.control.should_save = True
        if self.run.stopping:
            self.control.should_training_stop = True
        return figures

    def _save_checkpoint(self, *_: Any, **__: Any) -> None:
        """Save a checkpoint of the run."""
        if self.held:
            self.held.remember(self.run, self.state)
        self.run.save()


class _Finite(AcceleratedOptimizer):  # type: ignore[misc]
    """The run's optimizer, which makes no update where the gradients' norm is not finite."""

    def __init__(self, optimizer: torch.optim.Optimizer, trainer: RunTrainer) -> None:
        # Placing it would read its state back, in the parameters' dtype.
        super().__init__(optimizer, device_placement=False)
        self._trainer = trainer
        self._is_accelerate_prepared = True

    def step(self, closure: Any = None) -> None:
        """Make the update."""
        if math.isfinite(self._trainer.norm):
            super().step(closure)


class _Epochs:
    """The global batches that are left: each iteration yields those of one epoch."""

    def __init__(self, run: Run) -> None:
        self._batches = run.batches()
        self._next: GlobalBatch | None = None
        self.ended = False
        """Whether there are no more: the run's last step is made, or it is to stop."""

    def __iter__(self) -> Iterator[GlobalBatch]:
        batch = self._next or next(self._batches, None)
        epoch = batch.sequences[0].position.epoch if batch else 0
        while batch and batch.sequences[0].position.epoch == epoch:
            self._next = None
            yield batch
            batch = next(self._batches, None)
        self._next = batch
        self.ended = batch is None
