"""DeepSpeed's ZeRO (https://arxiv.org/abs/1910.02054)."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hfx import Backend, Plugin, Problem, Run, Shares, hookimpl

if TYPE_CHECKING:
    from torch import nn

_CANNOT = {
    "adafactor": "factors a parameter's rows and columns",
    "muon": "orthogonalises whole matrices",
    "galore": "projects whole matrices",
    "adamw_8bit": "keeps scales for blocks of a parameter",
    "lion_8bit": "keeps scales for blocks of a parameter",
    "schedule_free": "changes the weights between training and evaluation",
    "ema": "averages whole parameters",
    "fp16": "scales the loss, which DeepSpeed would do itself",
    "qlora": "keeps weights in 4 bits",
}
"""What meets flat pieces of parameters under ZeRO, and would learn something else there."""
_SHARDS = {"muon", "ema", "fp16", "qlora"}
"""Those of them that work with `fsdp`."""


class Zero(Plugin):
    """The optimizer's state is partitioned over the processes; from stage 2 gradients, too, at stage 3 the parameters.

    Weights and optimizer's state are kept in fp32; `bf16` computes in bf16 over them. Optimizers see flat pieces of
    parameters, so those that need a parameter's shape are refused.
    """

    stage: Literal[1, 2, 3] = 2
    """1: the optimizer's state is partitioned; 2: gradients, too; 3: parameters, too."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in the CPU's memory; of use with an accelerator."""
    offload_parameters: bool = False
    """Keep the parameters in the CPU's memory, too; stage 3, with an accelerator."""
    bucket_mb: float = Field(default=100.0, gt=0)
    """Megabytes of gradients that are reduced together."""
    timeout_minutes: float = Field(default=10.0, gt=0)
    """How long a process waits for the others before the run fails."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report a missing DeepSpeed, a run of one process, and plugins that need whole parameters."""
        from hfx_plugins.backends.sharing import alone, asked_of_accelerate

        if find_spec("deepspeed") is None:
            yield Problem("'zero' needs the package deepspeed; pip install 'hfx[zero]'")
        yield from alone(self.name, run)
        yield from asked_of_accelerate(self.name)
        for active in run.active:
            if why := _CANNOT.get(active.name):
                yield Problem(
                    f"'{active.name}' {why}, and 'zero' cuts parameters into flat pieces; use "
                    f"'--plugin {'fsdp' if active.name in _SHARDS else 'ddp'}', or leave '{active.name}' out"
                )
            if active.name == "compile" and self.stage == 3:
                yield Problem(
                    "'compile' would compile a layer anew for each state its parameters are gathered in, and "
                    "'zero.stage' is 3; use '--zero.stage 2', '--plugin fsdp', or leave 'compile' out"
                )
            if active.name == "bf16" and active.plugin.options().get("pure"):
                yield Problem("'zero' keeps its weights in fp32; leave 'bf16.pure' out, or use '--plugin fsdp'")
        if self.offload_parameters and self.stage != 3:
            yield Problem(f"'zero.offload_parameters' needs stage 3, and this is {self.stage}; '--zero.stage 3'")

    @hookimpl
    def hfx_backend(self, run: Run) -> Backend:
        """Return the backend; it forms the process group."""
        from hfx_plugins.backends.zero_impl import ZeroBackend

        return ZeroBackend(run, self)

    def shares(self, run: Run, module: nn.Module, ranks: int) -> Shares | None:
        """Return what a rank holds: its pieces, the bucket, what is gathered; nothing is known of offloaded pieces."""
        if self.offload_optimizer or self.offload_parameters:
            return None
        from hfx_plugins.backends.zero_shares import shares

        return shares(self, run, module, ranks)
