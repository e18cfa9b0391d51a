"""What the device does while a run trains on it."""

from __future__ import annotations

from collections.abc import Generator
from typing import ClassVar

from pydantic import PositiveFloat

from hfx import Plugin, Run, RunResult, hookimpl


class Monitor(Plugin):
    """Add to every step's figures what the device does: operations a second, model FLOP utilization, memory, use.

    `flops_per_second` are those of the model, per device: forward and backward pass, recomputed activations left out
    (https://arxiv.org/abs/2204.02311, appendix B). `mfu` is their share of `rate`. `resident_bytes` and `cpu_percent`
    are this process's, `device_used_bytes` and `device_percent` an NVIDIA GPU's, where `nvidia-ml-py` is installed.
    Operations are counted in the forward passes of the first step, and follow the tokens of later ones.
    """

    unverified: ClassVar[str] = "`device_used_bytes` and `device_percent` were never read, for want of a GPU"

    rate: PositiveFloat | None = None
    """Operations a second that count as all of the device; none: what products of large matrices reach here."""

    @hookimpl(wrapper=True)
    def hfx_run(self, run: Run) -> Generator[None, RunResult, RunResult]:
        """Count and measure while the run trains."""
        from hfx_plugins.tracking.monitor_impl import watch

        watch(run, self.rate)
        return (yield)
