"""One optimizer step: the mathematics of training, the same for every backend.

The loss of a step is the sum over the global batch divided by its units. Units are known before the forward pass, so
neither `micro_batch_size` nor the number of ranks changes the result: a rank or round without rows runs one row with
weight zero, to stay in step with the others.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from hfx.halving import with_less
from hfx.order import GlobalBatch, Sequence

if TYPE_CHECKING:
    from hfx.protocols import Batch, Metrics, Task, Values
    from hfx.run import Run


class TaskModule(nn.Module):
    """Model and task as one module, `forward(batch) -> sum`: what a backend wraps, so anything is legal inside."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model = model
        self._task = task

    def forward(self, batch: Batch, metrics: Metrics | None = None) -> Tensor:
        """Return the sum of the loss over the batch, `()`."""
        return self._task.loss(self.model, batch, metrics)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on the device."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def seed_everything(*key: int) -> None:
    """Seed torch from a key such as (seed, step, micro-step, rank): random state is derived, never stored."""
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


def collate(run: Run, sequences: list[Sequence]) -> Batch:
    """Return the tensors of some sequences."""
    return run.batcher.collate([_drawn(run, sequence) for sequence in sequences])


def _drawn(run: Run, sequence: Sequence) -> list[Values]:
    """Return the values of a sequence's examples; what a task draws anew is keyed by the sequence's position."""
    at = sequence.position
    counter = [0, at.bin, at.window, (at.epoch << 32) | at.block]
    rng = np.random.Generator(np.random.Philox(key=run.config.seed, counter=counter))
    return [run.task.draw(sequence.table.values(int(row)), rng) for row in sequence.rows]


def units_of(run: Run, batch: GlobalBatch) -> int:
    """Return what a step's loss is divided by, 1 at least.

    It is known from the table, but for a task that draws its labels anew: then each rank counts those of its own
    sequences, and they are added up.
    """
    count: Callable[[Values], int] | None = getattr(run.task, "drawn_units", None)
    if count is None:
        return max(1, batch.units)
    run.at("the count of labels")
    own = batch.share(run.world.rank, run.world.size)
    drawn = sum(count(values) for sequence in own for values in _drawn(run, sequence))
    return max(1, int(run.backend.all_reduce(torch.tensor([drawn], dtype=torch.float64))))


class Laps:
    """Seconds by what they went to: each lap is from the end of the one before."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def end(self, name: str) -> None:
        """Add the time since the last lap's end to this name."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def train_step(run: Run, batch: GlobalBatch, data_seconds: float) -> dict[str, Any]:
    """Run one optimizer step and return its figures, reduced over all ranks.

    Args:
        run: A run whose parts are built.
        batch: The global batch, of which this rank computes its share.
        data_seconds: How long the batch was waited for.
    """
    laps = Laps()
    config, backend, pace = run.config, run.backend, run.pace
    if pace:
        pace.begin()
    units, tokens = units_of(run, batch), batch.tokens
    total = with_less(run, batch, lambda: _gradients(run, batch, units, laps))
    run.at("the sum over the ranks")
    told = torch.tensor([float(total), run.stop_code, run.save_ended], dtype=torch.float64)
    # The loss stays in front: where in a tensor a number is decides the order in which gloo adds it up.
    summed = backend.all_reduce(torch.cat([told, pace.row()]) if pace else told)
    total, stop, saved = summed[:3]
    if pace:
        pace.compare(summed[3:])
    laps.end("sync")
    lr = max(group["lr"] for group in run.optimizer.param_groups)
    run.at("the update")
    result = backend.step(config.max_grad_norm)
    run.schedule.step()
    laps.end("optimizer")
    run.advance(batch, stop_code=int(stop), saved=int(saved))
    data_seconds += laps.seconds.pop("data")
    seconds = sum(laps.seconds.values())
    return {
        "step": run.step,
        "epoch": run.epoch,
        "loss": float(total) / units,
        "lr": float(lr),
        "grad_norm": result.norm,
        "tokens": tokens,
        "tokens_total": run.tokens_total,
        "tokens_per_second": tokens / (seconds + data_seconds),
        "step_seconds": seconds,
        "data_seconds": data_seconds,
        **{f"{name}_seconds": taken for name, taken in laps.seconds.items()},
        **(pace.figures() if pace else {}),
        "memory_bytes": memory_bytes(run.device),
    } | ({"skipped": True} if result.skipped else {})


def _gradients(run: Run, batch: GlobalBatch, units: int, laps: Laps) -> Tensor:
    """Add this rank's gradients of a step in the backend, micro-batch by micro-batch, and return its loss, `()`."""
    world, backend, most = run.world, run.backend, run.micro_batch_size
    own = batch.share(world.rank, world.size)
    rounds = math.ceil(math.ceil(len(batch.sequences) / world.size) / most)
    total = torch.zeros((), dtype=torch.float64)
    for micro in range(rounds):
        part = own[micro * most : (micro + 1) * most]
        weight = 1.0 if part else 0.0
        run.at("reading the batch")
        tensors = to_device(collate(run, part or batch.sequences[:1]), run.device)
        laps.end("data")
        seed_everything(run.config.seed, 2, run.step, micro, world.rank)
        with backend.micro_step(last=micro == rounds - 1):
            run.at("the forward pass")
            with run.precision.autocast():
                loss = run.module(tensors)
            run.at("the backward pass")
            backend.backward(loss * (weight / units))
        if part:
            total += loss.detach().double().cpu()  # waits for the device, so what it did is in this lap
        laps.end("forward_backward")
    return total


def memory_bytes(device: torch.device) -> int:
    """Return the peak of the device's memory, or of this process's resident memory on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def held(device: torch.device) -> int:
    """Return the most that was held on a device so far; on a CPU, what is resident in this process now."""
    return memory_bytes(device) if device.type == "cuda" else int(psutil.Process().memory_info().rss)
