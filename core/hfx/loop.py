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
    from hfx.protocols import Batch, Metrics, StepResult, Task, Values
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
    return run.batcher.collate([drawn(run, sequence) for sequence in sequences])


def drawn(run: Run, sequence: Sequence) -> list[Values]:
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
    labels = sum(count(values) for sequence in own for values in drawn(run, sequence))
    return max(1, int(run.backend.all_reduce(torch.tensor([labels], dtype=torch.float64))))


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


class Step:
    """An optimizer step under way: what each rank computes of it, what ranks agree on, and its figures.

    `train_step` drives it, or another loop does: the micro-batches' gradients, then `agree`, the update and the
    schedule, then `Run.end_step`.
    """

    def __init__(self, run: Run, batch: GlobalBatch, data_seconds: float) -> None:
        """Begin a step.

        Args:
            run: A run whose parts are built.
            batch: The global batch, of which this rank computes its share.
            data_seconds: How long the batch was waited for.
        """
        self.laps = Laps()
        self.run, self.batch, self.start = run, batch, run.position
        self._waited = data_seconds
        if run.pace:
            run.pace.begin()
        self.units = units_of(run, batch)
        """What the loss is divided by, over all ranks."""
        self.total = 0.0
        """The summed loss over all ranks, once they agreed."""
        self._stop = self._saved = 0
        self._lr = 0.0

    def parts(self) -> list[tuple[list[Sequence], float]]:
        """Return the sequences of this rank's micro-batches, each with its weight.

        All ranks have as many. One without rows has a micro-batch of one sequence with weight zero.
        """
        world, most = self.run.world, self.run.micro_batch_size
        own, every = self.batch.share(world.rank, world.size), self.batch.sequences
        rounds = math.ceil(math.ceil(len(every) / world.size) / most)
        cut = [own[micro * most : (micro + 1) * most] for micro in range(rounds)]
        return [(part, 1.0) if part else (every[:1], 0.0) for part in cut]

    def seed(self, micro: int) -> None:
        """Seed what the model draws in a micro-batch."""
        seed_everything(self.run.config.seed, 2, self.run.step, micro, self.run.world.rank)

    def agree(self, total: Tensor) -> None:
        """Add up this rank's loss, `()`, float64, with those of the others; and who wants to stop, and has saved."""
        run, pace = self.run, self.run.pace
        run.at("the sum over the ranks")
        told = torch.tensor([float(total), run.stop_code, run.save_ended], dtype=torch.float64)
        # The loss stays in front: where in a tensor a number is decides the order in which gloo adds it up.
        summed = run.backend.all_reduce(torch.cat([told, pace.row()]) if pace else told)
        self.total, self._stop, self._saved = float(summed[0]), int(summed[1]), int(summed[2])
        if pace:
            pace.compare(summed[3:])
        self.laps.end("sync")
        self._lr = float(max(group["lr"] for group in run.optimizer.param_groups))
        run.at("the update")

    def ended(self, result: StepResult) -> dict[str, Any]:
        """Take note that the update was made, and return the step's figures, reduced over all ranks."""
        run, laps = self.run, self.laps
        laps.end("optimizer")
        run.advance(self.batch, stop_code=self._stop, saved=self._saved)
        data_seconds = self._waited + laps.seconds.pop("data")
        seconds = sum(laps.seconds.values())
        return {
            "step": run.step,
            "epoch": run.epoch,
            "loss": self.total / self.units,
            "lr": self._lr,
            "grad_norm": result.norm,
            "tokens": self.batch.tokens,
            "tokens_total": run.tokens_total,
            "tokens_per_second": self.batch.tokens / (seconds + data_seconds),
            "step_seconds": seconds,
            "data_seconds": data_seconds,
            **{f"{name}_seconds": taken for name, taken in laps.seconds.items()},
            **(run.pace.figures() if run.pace else {}),
            "memory_bytes": memory_bytes(run.device),
        } | ({"skipped": True} if result.skipped else {})


def train_step(run: Run, batch: GlobalBatch, data_seconds: float) -> dict[str, Any]:
    """Run one optimizer step and return its figures, reduced over all ranks; the arguments are those of `Step`."""
    step = Step(run, batch, data_seconds)
    step.agree(with_less(run, batch, lambda: _gradients(step)))
    result = run.backend.step(run.config.max_grad_norm)
    run.schedule.step()
    return step.ended(result)


def _gradients(step: Step) -> Tensor:
    """Add this rank's gradients of a step in the backend, micro-batch by micro-batch, and return its loss, `()`."""
    run, laps = step.run, step.laps
    total = torch.zeros((), dtype=torch.float64)
    parts = step.parts()
    for micro, (part, weight) in enumerate(parts):
        run.at("reading the batch")
        tensors = to_device(collate(run, part), run.device)
        laps.end("data")
        step.seed(micro)
        with run.backend.micro_step(last=micro == len(parts) - 1):
            run.at("the forward pass")
            with run.precision.autocast():
                loss = run.module(tensors)
            run.at("the backward pass")
            run.backend.backward(loss * (weight / step.units))
        if weight:
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
