"""Examples of a run's table as batches, and their loss on its model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from hfx.loop import to_device
from hfx.run import Run

if TYPE_CHECKING:
    from hfx.protocols import Batch, Metrics, Values

IGNORED = -100


def drawn(run: Run, index: int) -> Values:
    """Return what a batch is made of for one example; what is random in it depends on the example alone."""
    rng = np.random.Generator(np.random.Philox(key=run.config.seed, counter=[0, index, 0, 0]))
    return run.task.draw(run.table("train").values(index), rng)


def collate(run: Run, sequences: Sequence[Sequence[int]]) -> Batch:
    """Return the tensors of sequences of examples."""
    return to_device(run.batcher.collate([[drawn(run, index) for index in one] for one in sequences]), run.device)


def loss_of(run: Run, batch: Batch, metrics: Metrics | None = None) -> torch.Tensor:
    """Return the loss of a batch as a number in float64, and fail where it is no finite sum."""
    with torch.no_grad(), run.precision.autocast():
        loss = run.task.loss(run.model, batch, metrics)
    assert isinstance(loss, torch.Tensor), f"the loss is a {type(loss).__name__}; it has to be a tensor"
    assert loss.shape == (), f"the loss has the shape {tuple(loss.shape)}; it has to be one number"
    assert bool(torch.isfinite(loss)), f"the loss is {float(loss)}"
    return loss.detach().double().cpu()


def loss_at(run: Run, *indices: int) -> torch.Tensor:
    """Return the loss of some examples in one batch, each its own sequence."""
    return loss_of(run, collate(run, [[index] for index in indices]))


def logits_of(run: Run, model: Any, index: int) -> torch.Tensor:
    """Return what a model says about one example, in float32."""
    batch = collate(run, [[index]])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids") if name in batch}
    with torch.no_grad():
        logits: torch.Tensor = model(**inputs).logits
    return logits.float().cpu()


def close(first: torch.Tensor, second: torch.Tensor, within: float = 1e-4) -> bool:
    """Say whether two numbers or tensors are equal but for the last bits."""
    return bool(torch.allclose(first, second, rtol=within, atol=within))


@contextmanager
def evaluating(run: Run) -> Iterator[Run]:
    """Yield the run with its model on the device and its dropout off."""
    run.model.to(run.device)
    run.model.eval()
    yield run
    run.model.train()


@contextmanager
def attentive(run: Run) -> Iterator[Run]:
    """Yield the run with its model evaluating, and its weights so large that positions do look at each other.

    New weights are so small that it hardly shows in the loss which positions a position sees.
    """
    with evaluating(run), torch.no_grad():
        for parameter in run.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
        yield run


def shortest_and_longest(run: Run) -> tuple[int, int]:
    """Return the indices of the shortest and the longest example."""
    lengths = run.table("train").column("length")
    return int(np.argmin(lengths)), int(np.argmax(lengths))


def weights(module: Any) -> dict[str, torch.Tensor]:
    """Return a copy of a module's parameters by name."""
    found: dict[str, torch.Tensor] = {}
    for name, parameter in module.named_parameters():
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        found[name] = whole.detach().cpu().clone()
    return found


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    """Return the names whose tensors are not equal to the bit."""
    assert first.keys() == second.keys(), f"the parameters are others: {sorted(first.keys() ^ second.keys())[:3]}"
    return [name for name in first if not torch.equal(first[name], second[name])]
