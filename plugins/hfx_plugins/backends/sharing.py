"""What the backends of several processes check alike."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from hfx import Problem, Run

if TYPE_CHECKING:
    from torch import nn

_ENGINES = {"ACCELERATE_USE_DEEPSPEED": ("DeepSpeed", "zero"), "ACCELERATE_USE_FSDP": ("FSDP", "fsdp")}


def asked_of_accelerate(name: str = "") -> Iterator[Problem]:
    """Report an engine that `accelerate launch` was configured for, and this backend is not.

    Args:
        name: The backend's name.
    """
    for variable, (engine, plugin) in _ENGINES.items():
        if os.environ.get(variable, "").lower() in ("1", "true") and plugin != name:
            yield Problem(
                f"'accelerate launch' was told to use {engine}, and this run would not; "
                f"add '--plugin {plugin}', or unset {variable}"
            )


def alone(name: str, run: Run) -> Iterator[Problem]:
    """Warn of a backend of several processes in a run of one."""
    config = run.config
    if run.world.size == 1 and config.nproc == 1 and config.nnodes == "1":
        yield Problem(
            f"'{name}' shares the work of several processes, and there is one; '--nproc 2' or 'auto' starts more",
            fatal=False,
        )


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Return the blocks that transformers says may not be split, outermost first; none where the model names none."""
    names = {name for part in model.modules() for name in getattr(part, "_no_split_modules", None) or ()}
    return [module for module in model.modules() if type(module).__name__ in names]


def several_micro_steps(run: Run, ranks: int) -> bool:
    """Return whether a rank runs several micro-batches a step."""
    return run.config.batch_size > run.config.micro_batch_size * ranks


def size_of(parameters: Iterable[nn.Parameter], dtype: Any = None) -> int:
    """Return the bytes of some parameters, in another dtype where one is given."""
    return sum(p.numel() * (dtype.itemsize if dtype else p.element_size()) for p in parameters)


def trained_size(module: nn.Module) -> int:
    """Return the bytes of the parameters that are trained."""
    return size_of(p for p in module.parameters() if p.requires_grad)
