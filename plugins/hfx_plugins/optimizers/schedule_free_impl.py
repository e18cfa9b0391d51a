"""The averaged weights while the model is in evaluation mode, those that are trained on while it is not."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from schedulefree import AdamWScheduleFree
from torch import nn

from hfx.errors import IncompatibleError

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hfx import ParamGroups, Run
    from hfx_plugins.optimizers.schedule_free import ScheduleFree

KEPT = "kept"
"""Key in a parameter's state of the weights that training goes on from: the way back by arithmetic is not exact."""
PART = "schedule_free"
"""Name of the part of the model that is told of its mode."""


def build(options: ScheduleFree, params: ParamGroups, run: Run) -> Optimizer:
    """Return the optimizer, in training mode, and let it follow the mode of the run's model until the run's end."""
    optimizer = AdamWScheduleFree(
        params.groups(weight_decay=options.weight_decay),
        lr=options.lr,
        betas=(options.beta1, options.beta2),
        eps=options.eps,
    )
    optimizer.train()
    run.enter(_followed(run, optimizer))
    return cast("Optimizer", optimizer)


@contextmanager
def _followed(run: Run, optimizer: Any) -> Iterator[None]:
    model = run.model
    part = FollowsMode(model, optimizer)
    model.add_module(PART, part)
    try:
        yield
        # A model given from Python outlives its run, with the weights that were exported.
        if run.stopping or run.step >= run.total_steps:
            to_average(optimizer)
    finally:
        if getattr(model, PART, None) is part:
            delattr(model, PART)


class FollowsMode(nn.Module):
    """A part of a model without parameters: torch tells every part whether it is in training or evaluation mode."""

    def __init__(self, model: nn.Module, optimizer: Any) -> None:
        super().__init__()
        # The model must not hold what holds the model, nor keep the optimizer's state after the run.
        self._model = weakref.ref(model)
        self._optimizer = weakref.ref(optimizer)

    def train(self, mode: bool = True) -> Self:
        """Give the model the weights of the mode."""
        model, optimizer = self._model(), self._optimizer()
        if model is not None and optimizer is not None:
            _check_whole(model, optimizer)
            (to_training if mode else to_average)(optimizer)
        return super().train(mode)

    def __reduce__(self) -> tuple[type[nn.Module], tuple[()]]:
        # A copy of the model is not the one that the optimizer trains.
        return nn.Module, ()


@torch.no_grad()
def to_average(optimizer: Any) -> None:
    """Put the averages in place of the weights, which are kept; does nothing where they are in place."""
    if not optimizer.param_groups[0]["train_mode"]:
        return
    for parameter, state in optimizer.state.items():
        if "z" in state:
            state[KEPT] = parameter.detach().clone()
    optimizer.eval()


@torch.no_grad()
def to_training(optimizer: Any) -> None:
    """Put the kept weights back; does nothing where they are in place."""
    for parameter, state in optimizer.state.items():
        if KEPT in state:
            parameter.copy_(state.pop(KEPT))
    for group in optimizer.param_groups:
        group["train_mode"] = True


def _check_whole(model: nn.Module, optimizer: Any) -> None:
    """Refuse an engine that trains copies or parts of the parameters: the averages would not reach the model."""
    own = {id(parameter) for parameter in model.parameters() if not hasattr(parameter, "full_tensor")}
    if not {id(parameter) for group in optimizer.param_groups for parameter in group["params"]} <= own:
        raise IncompatibleError(
            "'schedule_free' exchanges the model's weights for each evaluation, and the backend holds them in parts; "
            "use a backend that holds them whole, or '--plugin adamw'"
        )
