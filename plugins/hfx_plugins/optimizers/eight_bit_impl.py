"""bitsandbytes' optimizers, and which parameters keep 32 bits.

Their state is plain tensors, saved as they are: codes, one scale a block, and the table of what the codes stand for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from bitsandbytes.optim import AdamW8bit, Lion8bit
from torch import nn

from hfx_plugins.optimizers.whole_impl import in_parts, refuse_parts

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hfx import ParamGroups, Run
    from hfx_plugins.optimizers.adamw_8bit import AdamW8bit as AdamWOptions
    from hfx_plugins.optimizers.lion_8bit import Lion8bit as LionOptions

_COPIES = 5
"""Tensors in float32 that a CPU makes of a quantized parameter at a time to update it; a GPU makes none."""


class _Sized:
    """Chooses the bits of a parameter's state by the parameter, and takes whole parameters alone.

    bitsandbytes has a manager for that, which is one for the process and knows parameters by `id()`: another model's
    parameter that comes to lie in the same place would be taken for one of them.
    """

    state: dict[nn.Parameter, dict[str, Any]]
    called: str
    """The plugin's name."""
    own: frozenset[int]
    """Ids of the model's parameters, which outlive the optimizer."""
    precise: frozenset[int]
    """Ids of the parameters that keep 32 bits whatever their size."""

    def get_config(self, gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
        """Return the options of one parameter."""
        config: dict[str, Any] = super().get_config(gindex, pindex, group)  # type: ignore[misc]
        return config | {"optim_bits": 32} if id(group["params"][pindex]) in self.precise else config

    def init_state(self, group: dict[str, Any], p: nn.Parameter, gindex: int, pindex: int) -> None:
        """Make a parameter's state; each has its own tables, since a checkpoint takes no tensor twice.

        Raises:
            IncompatibleError: an engine has put something else into the groups.
        """
        if id(p) not in self.own:
            raise in_parts(self.called)
        super().init_state(group, p, gindex, pindex)  # type: ignore[misc]
        state = self.state[p]
        state.update({key: state[key].clone() for key in ("qmap1", "qmap2") if key in state})


class _AdamW(_Sized, AdamW8bit):  # type: ignore[misc]
    pass


class _Lion(_Sized, Lion8bit):  # type: ignore[misc]
    pass


def adamw(options: AdamWOptions, params: ParamGroups, run: Run) -> Optimizer:
    """Return AdamW8bit.

    Raises:
        IncompatibleError: the backend holds parameters in parts; in some cases at the first step.
    """
    optimizer = _AdamW(
        params.groups(weight_decay=options.weight_decay),
        lr=options.lr,
        betas=(options.beta1, options.beta2),
        eps=options.eps,
        min_8bit_size=options.min_8bit_size,
    )
    return _finished("adamw_8bit", optimizer, options, params, run)


def lion(options: LionOptions, params: ParamGroups, run: Run) -> Optimizer:
    """Return Lion8bit.

    Raises:
        IncompatibleError: the backend holds parameters in parts; in some cases at the first step.
    """
    optimizer = _Lion(
        params.groups(weight_decay=options.weight_decay),
        lr=options.lr,
        betas=(options.beta1, options.beta2),
        min_8bit_size=options.min_8bit_size,
    )
    return _finished("lion_8bit", optimizer, options, params, run)


def _finished(
    name: str, optimizer: Any, options: AdamWOptions | LionOptions, params: ParamGroups, run: Run
) -> Optimizer:
    refuse_parts(name, params)
    optimizer.called = name
    optimizer.own = frozenset(id(p) for _, p in params)
    embeddings = [m for m in run.model.modules() if isinstance(m, nn.Embedding) and not options.quantize_embeddings]
    optimizer.precise = frozenset(id(p) for m in embeddings for p in m.parameters(recurse=False))
    if run.planning and run.device.type == "cpu":
        sizes = [p.numel() for _, p in params if id(p) not in optimizer.precise]
        largest = max((size for size in sizes if size >= options.min_8bit_size), default=0)
        # An update is one operation to the planner, which cannot see what it holds for a while.
        optimizer.register_step_post_hook(lambda *_: _hold(_COPIES * largest))
    return cast("Optimizer", optimizer)


def _hold(values: int) -> None:
    torch.empty(values)
