"""Torch's DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hfx import Backend, Plugin, Problem, Run, Shares, Stretch, hookimpl

if TYPE_CHECKING:
    from torch import nn


class Ddp(Plugin):
    """Every process holds the whole model, and gradients are averaged while the backward pass computes them.

    It is exact: a resumed run ends with the same bits on the same number of processes.
    """

    timeout_minutes: float = Field(default=10.0, gt=0)
    """How long a process waits for the others before the run fails."""
    reduce_in: Literal["same", "bf16", "fp16"] = "same"
    """The numbers gradients are sent in: as they are, or half of the bytes, which loses bits of every gradient."""
    bucket_mb: float = Field(default=25.0, gt=0)
    """Megabytes of gradients that are sent together."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report a run of one process, and what accelerate was asked for."""
        from hfx_plugins.backends.sharing import alone, asked_of_accelerate

        yield from alone(self.name, run)
        yield from asked_of_accelerate(self.name)

    @hookimpl
    def hfx_backend(self, run: Run) -> Backend:
        """Return the backend; it forms the process group."""
        from hfx_plugins.backends.ddp_impl import DdpBackend

        return DdpBackend(run, self.timeout_minutes, self.reduce_in, self.bucket_mb)

    def shares(self, run: Run, module: nn.Module, ranks: int) -> Shares:
        """Return what a rank holds: everything, and the gradients once more, in the buckets they are sent in."""
        from hfx_plugins.backends.sharing import trained_size

        trained = trained_size(module)
        bucket = min(trained, int(self.bucket_mb * 2**20))

        def beside(stretch: Stretch) -> dict[str, int]:
            sending = self.reduce_in != "same" and "backward" in stretch.phase and stretch.gradients >= bucket
            return {"buckets": trained + (bucket // 2 if sending else 0)}

        return Shares(beside=beside)
