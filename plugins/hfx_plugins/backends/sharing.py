"""What the backends of several processes check alike."""

from __future__ import annotations

import os
from collections.abc import Iterator

from hfx import Problem, Run

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
