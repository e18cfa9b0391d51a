"""A run's values as `transformers.TrainingArguments`, for the Trainer and for callbacks; and accelerate's state."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import TrainerState, TrainingArguments

    from hfx import Run

_PLACES = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE",
           "ACCELERATE_TORCH_DEVICE", "ACCELERATE_USE_CPU", "ACCELERATE_USE_DEEPSPEED")  # fmt: skip
"""Variables by which accelerate would form a process group, set a number of threads, or choose a device."""


def rounds_of(run: Run) -> int:
    """Return the forward passes of a rank in a step of a whole batch."""
    return math.ceil(math.ceil(run.config.batch_size / run.world.size) / run.micro_batch_size)


def arguments_of(run: Run, best: str | None = None, greater: bool | None = None) -> TrainingArguments:
    """Return the arguments that say of a run what they can.

    What only hfx knows of (data, plugins) is not in them. `best` names the figure by which `state.best_metric` goes.
    """
    config, optimizer = run.config, run.optimizer
    betas = optimizer.param_groups[0].get("betas", (0.9, 0.999))
    return _placed(
        run,
        output_dir=str(run.output),
        per_device_train_batch_size=run.micro_batch_size,
        per_device_eval_batch_size=run.micro_batch_size,
        gradient_accumulation_steps=rounds_of(run),
        max_steps=run.total_steps,
        num_train_epochs=config.epochs or 1.0,
        learning_rate=float(max(group.get("initial_lr", group["lr"]) for group in optimizer.param_groups)),
        weight_decay=float(max(group.get("weight_decay", 0.0) for group in optimizer.param_groups)),
        adam_beta1=float(betas[0]),
        adam_beta2=float(betas[1]),
        max_grad_norm=config.max_grad_norm or 0.0,
        seed=config.seed % 2**32,  # numpy takes no larger one
        logging_strategy="steps",
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if run.has_eval else "no",
        eval_steps=config.eval_every or run.total_steps,
        save_strategy="steps",
        save_steps=config.save_every or run.total_steps,
        save_total_limit=config.keep,
        metric_for_best_model=best,
        greater_is_better=greater,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=run.device.type == "cpu",
    )


def _placed(run: Run, **values: Any) -> TrainingArguments:
    """Return arguments whose device and ranks are the run's; neither those nor threads are set anew."""
    from accelerate.utils import DistributedType
    from transformers import TrainingArguments

    hidden = {name: os.environ.pop(name) for name in _PLACES if name in os.environ}
    try:
        arguments = TrainingArguments(**values)
    finally:
        os.environ.update(hidden)
    world, device = run.world, run.device
    if device.type != "cpu":
        torch.accelerator.set_device_index(device.index or 0)
    several = DistributedType.MULTI_CPU if device.type == "cpu" else DistributedType.MULTI_GPU
    arguments.distributed_state = SimpleNamespace(
        num_processes=world.size, process_index=world.rank, local_process_index=world.local_rank, device=device,
        distributed_type=several if world.size > 1 else DistributedType.NO,
    )  # fmt: skip
    vars(arguments)["_setup_devices"] = device
    arguments._n_gpu = min(arguments.n_gpu, 1)
    arguments.mixed_precision = "no"  # the run's precision sees to it
    return arguments


def follow(state: TrainerState, run: Run) -> None:
    """Let the Trainer's state say how far the run is."""
    state.global_step, state.epoch = run.step, run.epoch
    state.max_steps = run.total_steps
    state.num_train_epochs = math.ceil(run.config.epochs or max(1.0, run.epoch))


@contextmanager
def own_accelerate_state() -> Iterator[None]:
    """Keep what accelerate knows of this process (device, ranks) to a run, and give back what it knew before."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    kinds: list[Any] = [PartialState, AcceleratorState, GradientState]
    before = [dict(kind._shared_state) for kind in kinds]
    for kind in kinds:
        kind._shared_state.clear()
    try:
        yield
    finally:
        for kind, state in zip(kinds, before, strict=True):
            kind._shared_state.clear()
            kind._shared_state.update(state)
