"""Small plugins that drive the contract: engines, packing, a stream, frozen parameters, as third parties would."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hfx import Backend, Batcher, Place, Plugin, Row, Rows, Run, StepResult, TorchBackend, hookimpl


class GlooBackend(TorchBackend):
    """Several processes on CPUs: what DDP and FSDP have in common."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        dist.init_process_group("gloo")
        self.world = dist.get_world_size()

    def backward(self, loss: Tensor) -> None:
        super().backward(loss * self.world)  # both engines average over ranks

    def all_reduce(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        dist.barrier()

    def close(self) -> None:
        dist.destroy_process_group()


class DdpBackend(GlooBackend):
    """Torch's DistributedDataParallel."""

    wrapped: DistributedDataParallel

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
        self.optimizer = optimizer
        # Without it DDP rebuilds its buckets after the first step, and a resumed run sums in another order.
        self.wrapped = DistributedDataParallel(module, find_unused_parameters=True)
        return self.wrapped

    def micro_step(self, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else self.wrapped.no_sync()


class Ddp(Plugin):
    """Trains under torch's DistributedDataParallel."""

    @hookimpl
    def hfx_backend(self, run: Run) -> Backend:
        return DdpBackend(run)


class FsdpBackend(GlooBackend):
    """Torch's fully_shard (FSDP2): parameters are DTensors, sharded over the ranks."""

    def shard(self, module: nn.Module) -> nn.Module:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (self.world,))
        for layer in module.model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(module, mesh=mesh)
        self.module = module
        total, local = (sum(f(p) for p in module.parameters()) for f in (nn.Parameter.numel, _local_numel))
        assert local < total, "fully_shard did not engage"
        return module

    @contextmanager
    def micro_step(self, last: bool) -> Iterator[None]:
        self.module.set_requires_gradient_sync(last)
        yield

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._reshard()
        return super().state()

    def _reshard(self) -> None:
        # A forward pass without a backward one (an evaluation) leaves the root's parameters gathered.
        for module in self.module.modules():
            if hasattr(module, "reshard"):
                module.reshard()

    @contextmanager
    def exporting(self) -> Iterator[dict[str, Tensor]]:
        self._reshard()
        full = {name: tensor.full_tensor() for name, tensor in self.module.model.state_dict().items()}
        yield full if dist.get_rank() == 0 else {}


def _local_numel(parameter: Any) -> int:
    return int(parameter.to_local().numel())


class Fsdp(Plugin):
    """Trains under torch's fully_shard."""

    @hookimpl
    def hfx_backend(self, run: Run) -> Backend:
        return FsdpBackend(run)


class Zero(Plugin):
    """Trains under DeepSpeed ZeRO, its engine driven directly."""

    stage: int = 2
    """1, 2 or 3."""

    @hookimpl
    def hfx_backend(self, run: Run) -> Backend:
        from contract.zero import ZeroBackend

        return ZeroBackend(run, self.stage)


@dataclass(frozen=True)
class BestFit:
    """Packs examples best-fit-decreasing; positions restart with every document."""

    seq_length: int
    window: int

    def groups(self, rows: Any, lengths: Any) -> list[Any]:
        bins: list[list[int]] = []
        room: list[int] = []
        for i in np.argsort(-lengths, kind="stable"):
            fitting = [b for b in range(len(bins)) if room[b] >= lengths[i]]
            best = min(fitting, key=room.__getitem__, default=None)
            if best is None:
                best = len(bins)
                bins.append([])
                room.append(self.seq_length)
            bins[best].append(int(rows[i]))
            room[best] -= int(lengths[i])
        return [np.array(b, dtype=np.int64) for b in bins]

    def collate(self, sequences: list[list[dict[str, Any]]]) -> dict[str, Tensor]:
        width = max(sum(len(e["input_ids"]) for e in sequence) for sequence in sequences)
        batch = {"input_ids": 0, "labels": -100, "position_ids": 0}
        tensors = {name: torch.full((len(sequences), width), pad) for name, pad in batch.items()}
        for number, sequence in enumerate(sequences):
            at = 0
            for example in sequence:
                span = slice(at, at + len(example["input_ids"]))
                tensors["input_ids"][number, span] = torch.as_tensor(np.array(example["input_ids"]))
                tensors["labels"][number, span] = torch.as_tensor(np.array(example["labels"]))
                tensors["position_ids"][number, span] = torch.arange(len(example["input_ids"]))
                at = span.stop
        return tensors


class Packing(Plugin):
    """Packs documents into full sequences."""

    window: int = 40
    """Examples packed together."""

    @hookimpl
    def hfx_batcher(self, run: Run) -> Batcher:
        return BestFit(run.config.seq_length, self.window)


@dataclass(frozen=True)
class Numbers:
    """A stream of sentences about numbers, computed as it is read."""

    count: int
    indexed: bool = False

    def fingerprint(self) -> str:
        return f"numbers/{self.count}"

    def read(self, start: int = 0) -> Iterator[Row]:
        for n in range(start, self.count):
            words = " ".join(str(n * k) for k in range(1, 2 + n % 17))
            yield Row({"text": f"multiples of {n}: {words}"}, Place("numbers", "numbers", n + 1))


class Stream(Plugin):
    """A source that is read in blocks."""

    block: int = 60
    """Rows read at a time."""
    count: int = 400
    """Rows in all."""

    @hookimpl
    def hfx_source(self) -> Rows:
        return Rows(Numbers(self.count), block=self.block)


def http_stream() -> Plugin:
    """Return the built-in source that reads over http, in blocks of which a run trains on several."""
    from hfx_plugins.sources.stream import Stream as HttpStream

    return HttpStream(block=40, columns=["text"], read_ahead_mb=0.01)


class Freeze(Plugin):
    """Trains the last layer and the norms only."""

    @hookimpl(wrapper=True)
    def hfx_model(self) -> Any:
        model = yield
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("layers.1." in name or "norm" in name)
        return model


def adapters() -> Plugin:
    """Return the built-in adapters."""
    from hfx_plugins.models.lora import Lora

    return Lora(rank=4)


def ema() -> Plugin:
    """Return the built-in average of the weights."""
    from hfx_plugins.optimizers.ema import EMA

    return EMA(decay=0.7)


class Kill(Plugin):
    """Kills the process the hard way after a step, as a machine that dies would."""

    step: int
    """The step."""
    rank: int = 0
    """The rank that dies."""

    @hookimpl
    def hfx_step_end(self, run: Run) -> None:
        if run.step == self.step and run.world.rank == self.rank:
            os.kill(os.getpid(), signal.SIGKILL)


class Interrupt(Plugin):
    """Sends SIGINT to one rank, a while after a step: then it waits for the next block."""

    step: int
    """The step."""
    rank: int = 1
    """The rank that hears of it."""

    @hookimpl
    def hfx_step_end(self, run: Run) -> None:
        if run.step == self.step and run.world.rank == self.rank:
            threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGINT)).start()


__all__ = ["BestFit", "DdpBackend", "FsdpBackend", "StepResult"]
