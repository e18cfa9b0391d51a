"""Two optimizers as one, and which parameters go to which."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from hfx.errors import IncompatibleError

if TYPE_CHECKING:
    from hfx import ParamGroups, Run
    from hfx_plugins.optimizers.muon import Muon as Options

_SIDE = "side"
"""Key in a group: the number of the inner optimizer that updates it."""


class Side(Optimizer):
    """Optimizers side by side, whose parameter groups and state are also this one's.

    A schedule writes into the groups and a checkpoint holds the state, so both see one optimizer. A group says whose
    it is, so that it may be split.
    """

    def __init__(self, *inner: Optimizer) -> None:
        # No defaults are handed on, which belong to one of them only.
        groups = [group | {_SIDE: side} for side, one in enumerate(inner) for group in one.param_groups]
        super().__init__(groups, {})
        self._inner = inner

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step of each, on the groups and the state as they are now: loading replaces both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for side, one in enumerate(self._inner):
            one.state, one.param_groups = self.state, [group for group in self.param_groups if group[_SIDE] == side]
            one.step()
        return loss


def build(options: Options, params: ParamGroups, run: Run) -> Optimizer:
    """Return Muon for the matrices inside the layers and AdamW for the rest.

    Raises:
        IncompatibleError: no trainable matrix is inside a layer.
    """
    inside = inner_matrices(run.model)
    hidden: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for group in params.groups(weight_decay=options.weight_decay):
        for chosen, wanted in ((hidden, True), (others, False)):
            if members := [p for p in group["params"] if (id(p) in inside) == wanted]:
                chosen.append({**group, "params": members})
    if not hidden:
        raise IncompatibleError(
            "'muon' finds no trainable matrix inside the model's layers to update; use '--plugin adamw'"
        )
    return Side(_muon(options, hidden), *([_adamw(options, others, run)] if others else []))


def inner_matrices(model: nn.Module) -> set[int]:
    """Return the ids of the matrices inside layers: 2-D parameters in a list of modules, embeddings left out."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    layers = {id(module): module for found in lists for layer in found for module in layer.modules()}
    matrices = (p for module in layers.values() for p in module.parameters(recurse=False) if p.ndim == 2)
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    return {id(p) for p in matrices} - embeddings


def _muon(options: Options, groups: list[dict[str, Any]]) -> Optimizer:
    return Muon(
        groups,
        lr=options.lr,
        momentum=options.momentum,
        nesterov=options.nesterov,
        ns_steps=options.ns_steps,
        adjust_lr_fn=options.adjust_lr,
    )


def _adamw(options: Options, groups: list[dict[str, Any]], run: Run) -> Optimizer:
    # None lets torch group the parameters where that is faster; False would take them one by one.
    fused = run.device.type == "cuda" or None
    return cast("Optimizer", AdamW(groups, lr=options.adamw_lr, betas=(options.beta1, options.beta2), fused=fused))
