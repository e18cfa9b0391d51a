"""The engines of wrong backends, which need torch."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import Any

import torch

from hfx import StepResult, TorchBackend


class Averaging(TorchBackend):
    def backward(self, loss: Any) -> None:
        super().backward(loss / 2)


class Replacing(TorchBackend):
    def backward(self, loss: Any) -> None:
        self.module.zero_grad()
        super().backward(loss)


class ClippedNorm(TorchBackend):
    def step(self, max_norm: float | None) -> StepResult:
        found = super().step(max_norm)
        return StepResult(min(found.norm, max_norm or math.inf), found.skipped)


class Trusting(TorchBackend):
    def step(self, max_norm: float | None) -> StepResult:
        norm = float(torch.nn.utils.clip_grad_norm_(self.module.parameters(), max_norm or math.inf))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return StepResult(norm)


class Unclipped(TorchBackend):
    def step(self, max_norm: float | None) -> StepResult:
        return super().step(None)


class Amnesia(TorchBackend):
    def state(self) -> Any:
        tensors, values = super().state()
        return {name: t for name, t in tensors.items() if name.startswith("model.")}, {**values, "optim": {}}


class Doubling(TorchBackend):
    def all_reduce(self, tensor: Any) -> Any:
        return tensor * 2


class Stale(TorchBackend):
    def prepare(self, module: Any, optimizer: Any) -> Any:
        self.began = {name: t.clone() for name, t in module.model.state_dict().items()}
        return super().prepare(module, optimizer)

    @contextmanager
    def exporting(self) -> Any:
        yield self.began


class Hoarding(TorchBackend):
    def step(self, max_norm: float | None) -> StepResult:
        kept = [(p, p.grad) for p in self.module.parameters()]
        found = super().step(max_norm)
        for parameter, gradient in kept:
            parameter.grad = gradient
        return found
