"""Operations of a run's steps, and readings of process and device."""

from __future__ import annotations

from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hfx.rates import computed_in, measured, operations

if TYPE_CHECKING:
    from hfx import Run


def watch(run: Run, rate: float | None) -> None:
    """Let each step's figures have those of the device."""
    speed = Speed(run, rate)
    run.measure("flops_per_second", speed.flops_per_second)
    run.measure("mfu", speed.utilization)
    process = psutil.Process()
    process.cpu_percent()  # what is read next counts from here
    run.measure("resident_bytes", lambda _: int(process.memory_info().rss))
    run.measure("cpu_percent", lambda _: float(process.cpu_percent()))
    if run.device.type == "cuda" and find_spec("pynvml") is not None:
        run.measure("device_used_bytes", lambda _: int(torch.cuda.device_memory_used(run.device)))
        run.measure("device_percent", lambda _: float(torch.cuda.utilization(run.device)))


class Speed:
    """Operations of a step, counted in the forward passes of the first one."""

    def __init__(self, run: Run, rate: float | None) -> None:
        self._run = run
        self._rate = rate
        self._counter = Counter()
        self._per_token: float | None = None
        enter: Any = self._enter
        self._hooks = run.enter(ExitStack())
        self._hooks.callback(run.module.register_forward_pre_hook(enter).remove)
        self._hooks.callback(run.module.register_forward_hook(self._leave, always_call=True).remove)

    def flops_per_second(self, metrics: dict[str, Any]) -> float:
        """Return the operations a second of this device in a step, waiting for data included."""
        if self._per_token is None:
            self._hooks.close()
            counter, backward = self._counter, 1 + trained_share(self._run.module)
            self._per_token = (counter.differentiated * (1 + backward) + counter.others) / metrics["tokens"]
        return float(self._per_token * metrics["tokens"] / (metrics["step_seconds"] + metrics["data_seconds"]))

    def utilization(self, metrics: dict[str, Any]) -> float:
        """Return the share of the device's rate, which is measured after the first step unless it was given."""
        if self._rate is None:
            self._rate = measured(self._run.device, computed_in(self._run.precision, self._run.device))
        return float(metrics["flops_per_second"] / self._rate)

    def _enter(self, *_: Any) -> None:
        if self._run.module.training:
            self._counter.__enter__()  # type: ignore[no-untyped-call]

    def _leave(self, *_: Any) -> None:
        if self._run.module.training:
            self._counter.__exit__(None, None, None)  # type: ignore[no-untyped-call]


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations of what runs inside it, and changes nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.differentiated = 0
        """Those that the backward pass will go back over."""
        self.others = 0
        """Those without gradients, and those of a function that has its backward pass done already."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        found = operations(func, args, kwargs, result)
        if torch.is_grad_enabled():
            self.differentiated += found
        else:
            self.others += found
        return result


def trained_share(module: nn.Module) -> float:
    """Return the share of the matrices that have a gradient: the backward pass computes none for the others."""
    looked_up = {id(p) for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    matrices = [p for p in module.parameters() if p.ndim > 1 and id(p) not in looked_up]
    return sum(p.numel() for p in matrices if p.requires_grad) / max(1, sum(p.numel() for p in matrices))
