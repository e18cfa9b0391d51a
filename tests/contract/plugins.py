"""Small plugins that drive the contract: packing, a stream, frozen parameters, as third parties would write them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hfx import Batcher, Place, Plugin, Row, Rows, Run, hookimpl


def engines() -> dict[str, list[Plugin]]:
    """Return the built-in backends by a short name."""
    from hfx_plugins.backends.ddp import Ddp
    from hfx_plugins.backends.fsdp import Fsdp
    from hfx_plugins.backends.zero import Zero

    stages = {f"zero{stage}": [Zero(stage=stage)] for stage in (1, 2, 3)}
    return {"one": [], "ddp": [Ddp()], "fsdp": [Fsdp()], **stages}


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
