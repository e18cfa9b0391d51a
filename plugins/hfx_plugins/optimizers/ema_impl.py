"""The average by parameter name, and the model with its averaged weights for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

if TYPE_CHECKING:
    from torch import nn


def begin(model: nn.Module, average: dict[str, Any]) -> None:
    """Let the average of each trained parameter begin as the parameter."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            average[name] = parameter.detach().to(torch.float32, copy=True)


def update(model: nn.Module, average: dict[str, Any], decay: float) -> None:
    """Move the average of each trained parameter towards it."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, mean in average.items():
            average[name] = _beside(mean, parameters[name])
            average[name].lerp_(parameters[name].detach().float(), 1 - decay)


def _beside(mean: Tensor, parameter: Tensor) -> Tensor:
    """Return the average where the parameter is, and sharded like it: a restored one is whole, and on the CPU."""
    mean = mean.to(parameter.device)
    if isinstance(parameter, DTensor) and not isinstance(mean, DTensor):
        return distribute_tensor(mean, parameter.device_mesh, parameter.placements)
    return mean


@contextmanager
def averaged(model: nn.Module, average: dict[str, Any]) -> Iterator[None]:
    """Give the model its averaged weights, and its own back afterwards, to the bit."""
    parameters = dict(model.named_parameters())
    kept = {name: parameters[name].detach().clone() for name in average}
    with torch.no_grad():
        for name, mean in average.items():
            parameters[name].copy_(_beside(mean, parameters[name]))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, own in kept.items():
                parameters[name].copy_(own)
