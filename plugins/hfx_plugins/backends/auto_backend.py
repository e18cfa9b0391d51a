"""The default backend: one process, or DDP where several were started."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from hfx import Backend, Plugin, Problem, Run, Shares, hookimpl

if TYPE_CHECKING:
    from torch import nn


class AutoBackend(Plugin):
    """One process on the fastest device it finds; of several each holds the whole model, as under `ddp`."""

    timeout_minutes: float = Field(default=10.0, gt=0)
    """How long a process waits for the others before the run fails."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report what accelerate was asked for, and would not be."""
        from hfx_plugins.backends.sharing import asked_of_accelerate

        yield from asked_of_accelerate()

    @hookimpl
    def hfx_backend(self, run: Run) -> Backend:
        """Return the backend that suits the number of processes."""
        if run.world.size == 1:
            from hfx import TorchBackend

            return TorchBackend(run)
        from hfx_plugins.backends.ddp_impl import DdpBackend

        return DdpBackend(run, self.timeout_minutes)

    def shares(self, run: Run, module: nn.Module, ranks: int) -> Shares:
        """Return what a rank of several holds, as under `ddp`."""
        from hfx_plugins.backends.ddp import Ddp

        return Ddp().shares(run, module, ranks)
