"""Torch's fully_shard (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hfx import Backend, Plugin, Problem, Run, Shares, hookimpl

if TYPE_CHECKING:
    from torch import nn

_CANNOT = {
    "adafactor": "factors a parameter's rows and columns, and measures it whole",
    "galore": "projects whole matrices",
    "adamw_8bit": "keeps scales for blocks of a parameter",
    "lion_8bit": "keeps scales for blocks of a parameter",
    "schedule_free": "changes the weights between training and evaluation",
}
"""What would meet shards of parameters, and cannot work on them, or would learn something else."""


class Fsdp(Plugin):
    """Parameters, gradients and the optimizer's state are sharded over the processes; a layer is gathered to compute.

    The layers are found from the model (transformers says which blocks may not be split). It is exact: a resumed run
    ends with the same bits on the same number of processes.
    """

    timeout_minutes: float = Field(default=10.0, gt=0)
    """How long a process waits for the others before the run fails."""
    reshard: bool = True
    """Let a layer's parameters go after its forward pass, and gather them again for the backward: less memory, half
    again as much to send."""
    gather_in: Literal["same", "bf16"] = "same"
    """The numbers parameters are gathered in, and layers compute in; the shards stay as they are."""
    reduce_in: Literal["same", "fp32", "bf16"] = "same"
    """The numbers gradients are summed in over the processes."""
    offload: bool = False
    """Keep the shards, gradients and optimizer's state in the CPU's memory; of use with an accelerator."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report a run of one process, what accelerate was asked for, and plugins that need whole parameters."""
        from hfx_plugins.backends.sharing import alone, asked_of_accelerate

        yield from alone(self.name, run)
        yield from asked_of_accelerate(self.name)
        for active in run.active:
            if why := _CANNOT.get(active.name):
                yield Problem(
                    f"'{active.name}' {why}, and 'fsdp' holds parameters in shards; use '--plugin ddp', or leave "
                    f"'{active.name}' out"
                )

    @hookimpl
    def hfx_backend(self, run: Run) -> Backend:
        """Return the backend; it forms the process group."""
        from hfx_plugins.backends.fsdp_impl import FsdpBackend

        return FsdpBackend(run, self)

    def shares(self, run: Run, module: nn.Module, ranks: int) -> Shares | None:
        """Return what a rank holds: its shards, and what is gathered; nothing is known of offloaded shards."""
        from hfx_plugins.backends.fsdp_impl import shares

        if self.gather_in != "same":  # layers are traced in the numbers that their shards have
            run.left_out.add(f"{self.name}.gather_in")
        return None if self.offload else shares(self, run, module, ranks)
