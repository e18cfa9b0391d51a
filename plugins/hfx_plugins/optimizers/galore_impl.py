"""GaLore whose directions are tensors of its state, and which matrices are projected."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from pytorch_optimizer.optimizer.galore import GaLore as Library
from pytorch_optimizer.optimizer.utils.galore import GaLoreProjector

from hfx.errors import IncompatibleError
from hfx_plugins.optimizers.muon_impl import inner_matrices
from hfx_plugins.optimizers.whole_impl import in_parts, refuse_parts

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hfx import ParamGroups, Run
    from hfx_plugins.optimizers.galore import Galore as Options

DIRECTIONS = "directions"
"""Key in a parameter's state of the orthonormal vectors, `(rank, columns)` or, of wide matrices, `(rows, rank)`."""
_PROJECTOR = "projector"
"""The library's key of the object that holds them, which no checkpoint could."""


class GaLore(Library):  # type: ignore[misc]
    """The library's optimizer; between steps its state is tensors alone."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take a step."""
        for group in self.param_groups:
            for state in (self.state[p] for p in group["params"] if DIRECTIONS in self.state.get(p, ())):
                state[_PROJECTOR] = _projector(group, state.pop(DIRECTIONS))
        loss: float | None = super().step(closure)
        for state in self.state.values():
            if _PROJECTOR in state:
                # Those of wide matrices come out by columns, which safetensors cannot store.
                state[DIRECTIONS] = state.pop(_PROJECTOR).ortho_matrix.contiguous()
        return loss


def _projector(group: dict[str, Any], directions: torch.Tensor) -> Any:
    projector = GaLoreProjector(group["rank"], group["update_proj_gap"], group["scale"], group["projection_type"])
    projector.ortho_matrix = directions
    return projector


def build(options: Options, params: ParamGroups, run: Run) -> Optimizer:
    """Return GaLore for the large matrices inside the layers, and AdamW for the rest, as one optimizer.

    Raises:
        IncompatibleError: no matrix is large enough, or the backend holds parameters in parts; the latter in some
            cases at the first step.
    """
    refuse_parts("galore", params)
    inside = inner_matrices(run.model)
    # A count of steps that is there from the beginning is seen to change by whoever steps one parameter alone.
    projected = {
        "rank": options.rank, "update_proj_gap": options.update_every, "scale": options.scale,
        "projection_type": "std", "step": 0,
    }  # fmt: skip
    groups: list[dict[str, Any]] = []
    for group in params.groups(weight_decay=options.weight_decay):
        large = [p for p in group["params"] if id(p) in inside and min(p.shape) > options.rank]
        chosen = {id(p) for p in large}
        small = [p for p in group["params"] if id(p) not in chosen]
        groups += [{**group, "params": large, **projected}] if large else []
        groups += [{**group, "params": small, "step": 0}] if small else []
    optimizer = GaLore(groups, lr=options.lr, betas=(options.beta1, options.beta2), eps=options.eps)
    own = {id(p) for _, p in params}

    def check(optimizer: Optimizer, *_: object) -> None:
        if not all(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            raise in_parts("galore")

    # A hook also says to whoever would call it for some of the parameters that its steps count.
    optimizer.register_step_pre_hook(check)
    if not any("rank" in group for group in groups):
        raise IncompatibleError(
            f"'galore' finds no trainable matrix inside the model's layers with both sides longer than "
            f"{options.rank}; lower 'galore.rank', or use '--plugin adamw'"
        )
    return cast("Optimizer", optimizer)
