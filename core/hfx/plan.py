"""What a run will hold in memory, by tracing its own step: the real plugins, on tensors without content.

Two steps of the run's own loop are traced with a few of the model's layers, twice; what a whole model holds follows,
since every stretch of a step grows by the same amount with every layer. The stretches lie between the layers at both
ends, because the highest moment may be at either: where activations are most, or where gradients are. Of a step's
micro-batches two are traced: the first, and of those that find gradients the largest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from hfx.order import Position
from hfx.protocols import Shares, World
from hfx.ranks import INNER, NAMES, of_rank, shares_of
from hfx.tracing import Peak, Tracer

if TYPE_CHECKING:
    from hfx.order import GlobalBatch, Sequence
    from hfx.protocols import Table
    from hfx.run import Run

_DATA = ("source", "rows", "cleaned", "tokenizer", "task", "table", "sampler", "batcher", "blocks", "total_steps")
_LOOKED_AT = 200
"""Steps among which the one with the largest micro-batch is looked for."""


@dataclass(frozen=True)
class Plan:
    """What one rank of a run holds and computes."""

    peak: Peak
    """Bytes by kind at the highest moment of a step."""
    moment: str
    """Where in the step that is."""
    peaks: dict[str, Peak]
    """The same for each stretch of the step."""
    parameters: int
    trained: int
    tokens: int
    """Positions of the step that was traced, padding left out."""
    flops: int
    """Floating-point operations of that step: two for a multiplication with its addition."""
    layers: int
    traced: tuple[int, ...]
    """Layers of the model, and how many of them were traced."""
    ranks: int = 1
    shares: Shares | None = None
    """What a rank holds of it all; None: nobody says, and the figures are of one that holds everything."""
    tokens_each: int = 0
    """Positions of the step that the rank has of `tokens`; the operations are those on them."""
    left_out: frozenset[str] = frozenset()
    """Plugins that do something else while a plan is made than in a run."""


def plan(run: Run, shorten: bool = True, said: list[str] | None = None, ranks: int = 1) -> Plan:
    """Return what one rank of a run will hold; its data are prepared, and neither weights nor activations are made.

    Args:
        run: A run of which nothing on the device is built.
        shorten: Trace some of many layers, instead of all.
        said: Takes the lines that a run says before its first step.
        ranks: How many processes there will be.

    Raises:
        HfxError: what a run with this config would be refused for.
    """
    from hfx.report import before_step_one, refuse_unlabelled

    refuse_unlabelled(run)
    batch, rank = _largest(run, ranks)
    steps = _Steps.of(batch, rank, ranks, run.config.micro_batch_size)
    whole = _twin(run, World(0, ranks))
    with Tracer().tracing():
        shares = shares_of(whole)
        stack = Stack.of(whole.model)
        parameters = list(whole.model.parameters())
        counts = sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)
        if said is not None:
            _ = whole.optimizer  # what plugins keep beside it is on the disk, too
            said += before_step_one(whole)
    depths = stack.depths() if stack and shorten else ()
    if depths:
        assert stack is not None
        first, second = (_trace(run, steps, depth, World(rank, ranks)) for depth in depths)
        traced = _extrapolated(first, second, stack.size)
    else:
        traced = _trace(run, steps, None, World(rank, ranks))
    size = stack.size if stack else 0
    peaks = {name: of_rank(peak, name, size, shares) for name, peak in traced.peaks.items()} if shares else traced.peaks
    moment, peak = max(peaks.items(), key=lambda item: item[1].total())
    return Plan(
        peak,
        moment,
        peaks,
        *counts,
        batch.tokens,
        traced.flops,
        size,
        depths or (size,),
        ranks,
        shares,
        sum(map(_length, batch.share(rank, ranks))),
        frozenset(whole.left_out),
    )


def largest_batch(run: Run) -> GlobalBatch:
    """Return the batch, among the first, whose largest micro-batch has the most positions."""
    return _largest(run, 1)[0]


def _largest(run: Run, ranks: int) -> tuple[GlobalBatch, int]:
    """Return the batch, among the first, and the rank of it, whose largest micro-batch has the most positions."""
    best: tuple[int, GlobalBatch, int] | None = None
    micro = run.config.micro_batch_size
    for step, batch in zip(range(_LOOKED_AT), run.order.batches(Position()), strict=False):
        if step >= run.total_steps:
            break
        for rank in range(ranks):
            parts = _micro_batches(batch.share(rank, ranks), micro)
            # Behind the first one there are gradients, too.
            size = max(map(_positions, parts[1:] or parts), default=0)
            if best is None or size > best[0]:
                best = size, batch, rank
    assert best is not None, "data without an example are refused before"
    return best[1:]


def _micro_batches(share: list[Sequence], micro: int) -> list[list[Sequence]]:
    return [share[at : at + micro] for at in range(0, len(share), micro)]


def _positions(part: list[Sequence]) -> int:
    return len(part) * max(map(_length, part))


def _length(sequence: Sequence) -> int:
    return sum(_width(sequence.table, row) for row in sequence.rows)


def _width(table: Table, row: int) -> int:
    """Return the positions of an example: of two texts (a pair, a source and its target) those of the longer one."""
    values = table.values(row).values()
    return max([int(table.column("length")[row]), *(len(value) for value in values if np.ndim(value))])


# ── tracing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Steps:
    """What is traced in place of a step: a step that makes the optimizer's state, and one that begins with it."""

    first: GlobalBatch
    second: GlobalBatch
    times: float
    """How many times the positions of the second one the whole step has, on the rank that is traced."""

    @classmethod
    def of(cls, batch: GlobalBatch, rank: int, ranks: int, micro: int) -> _Steps:
        parts = _micro_batches(batch.share(rank, ranks), micro)
        largest = max(parts[1:] or parts, key=_positions)
        both = [parts[0], largest] if len(parts) > 1 else [largest]
        # Every rank has what the traced one has, so each finds it where its own share lies.
        first, second = largest * ranks, list(chain(*both)) * ranks
        times = sum(map(_positions, parts)) / sum(map(_positions, both))
        return cls(replace(batch, sequences=first), replace(batch, sequences=second), times)


@dataclass(frozen=True)
class _Traced:
    depth: int
    peaks: dict[str, Peak]
    flops: int


def _twin(run: Run, world: World) -> Run:
    """Return a run with the same data, one rank of so many, whose device side is still to be built."""
    from hfx.run import Run

    twin = with_data_of(run, Run(run.resolved, run.output, world if world.size > 1 else run.world))
    twin.planning = True
    return twin


def with_data_of(run: Run, other: Run) -> Run:
    """Return another run, which takes its data from a run whose data are the same."""
    other.cache = run.cache
    other._parts = {label: part for label, part in run._parts.items() if label.partition("/")[0] in _DATA}
    return other


def _trace(run: Run, steps: _Steps, depth: int | None, world: World) -> _Traced:
    """Trace steps of a run, whose model has so many of its layers."""
    from hfx.loop import train_step

    twin, tracer = _twin(run, world), Tracer()
    with tracer.tracing():
        tracer.segment("build")
        model = twin.model
        stack = Stack.of(model)
        if stack and depth is not None:
            stack.cut(depth)
        _ = twin.schedule
        tracer.mark("parameters", model.parameters())
        tracer.mark("buffers", model.buffers())
        with _Landmarks(tracer, twin, stack) as landmarks:
            for batch in (steps.first, steps.second):
                before, earlier = tracer.flops, landmarks.updates
                train_step(twin, batch, 0.0)
                tracer.mark("optimizer state", _state(twin.optimizer))
                tracer.mark("state of plugins", _tensors(twin.state))
    updates = landmarks.updates - earlier
    passes = tracer.flops - before - updates
    return _Traced(depth or 0, tracer.recording.peaks(), round(passes * steps.times) + updates)


def _state(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


def _tensors(state: dict[str, dict[str, Any]]) -> Iterator[Tensor]:
    for values in state.values():
        yield from (value for value in values.values() if isinstance(value, Tensor))


class _Landmarks(ExitStack):
    """Lets a segment of the trace begin wherever the step passes from one part of the model to the next."""

    def __init__(self, tracer: Tracer, run: Run, stack: Stack | None) -> None:
        super().__init__()
        self._tracer = tracer
        self._run = run
        self._backward = False
        self._before_update = 0
        self.updates = 0
        """Operations of all updates so far; there is one a step, however many passes."""
        handles = [
            run.module.register_forward_pre_hook(lambda *_: self._begin()),
            run.module.register_forward_hook(lambda *_: self._turn()),
            run.optimizer.register_step_pre_hook(lambda *_: self._update()),
            run.optimizer.register_step_post_hook(lambda *_: self._updated()),
        ]
        for name, layer in stack.named() if stack else ():
            handles.append(layer.register_forward_pre_hook(self._before(name)))
            handles.append(layer.register_forward_hook(self._behind(name)))
        for handle in handles:
            self.callback(handle.remove)

    def _begin(self) -> None:
        self._backward = False
        self._tracer.segment("forward")

    def _turn(self) -> None:
        self._tracer.mark_rest("activations")
        self._backward = True
        self._tracer.segment("backward of the loss")

    def _update(self) -> None:
        self._tracer.mark("gradients", [p.grad for p in self._run.module.parameters() if p.grad is not None])
        self._tracer.segment("optimizer")
        self._before_update = self._tracer.flops

    def _updated(self) -> None:
        self.updates += self._tracer.flops - self._before_update

    def _before(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            if not self._backward:  # a checkpointed layer runs again in the backward pass
                self._tracer.segment(f"forward of {name}")

        return hook

    def _behind(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if self._backward:
                return
            if name == "the last layer":
                self._tracer.segment("forward of the loss")
            hidden = output[0] if isinstance(output, tuple) else output
            if isinstance(hidden, Tensor) and hidden.requires_grad:
                arrive: Any = hidden.register_hook
                arrive(lambda _: self._tracer.segment(f"backward of {name}"))

        return hook


# ── layers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Stack:
    """The layers of a model that come again and again, as a list that can be cut."""

    def __init__(self, layers: nn.ModuleList, size: int, period: int) -> None:
        self._layers = layers
        self.size = size
        self._period = period

    @classmethod
    def of(cls, model: nn.Module) -> Stack | None:
        """Return the only stack of a model; None where there are several, or none."""
        lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) > 1]
        inner = {id(m) for outer in lists for layer in outer for m in layer.modules()}
        outer = [m for m in lists if id(m) not in inner]
        if len(outer) != 1:
            return None
        signs = [_sign(layer) for layer in outer[0]]
        period = next(p for p in range(1, len(signs) + 1) if signs[p:] == signs[:-p])
        return cls(outer[0], len(signs), period)

    def depths(self) -> tuple[int, ...]:
        """Return two numbers of layers from which the whole follows; none where tracing all is as short."""
        step = self._period * -(-2 // self._period)
        low = max(len(NAMES), 2 * self._period)
        low += (self.size - low) % self._period
        return (low, low + step) if low + step < self.size else ()

    def cut(self, depth: int) -> None:
        """Leave so many layers, the first ones."""
        del self._layers[depth:]

    def named(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the layers, with names for those at both ends."""
        size = len(self._layers)
        for index, layer in enumerate(self._layers):
            if size < len(NAMES):
                yield f"layer {index}", layer
            else:
                at = index if index < 2 else index - size + len(NAMES)
                yield NAMES[at] if (at < 2 and index < 2) or index >= size - 2 else INNER, layer


def _sign(layer: nn.Module) -> Any:
    """Return what layers have in common that hold the same: classes, shapes, whether activations are recomputed."""
    return [
        (
            type(module).__name__,
            getattr(module, "gradient_checkpointing", None),
            getattr(module, "sliding_window", None),
            [(name, tuple(p.shape), p.dtype, p.requires_grad) for name, p in module.named_parameters(recurse=False)],
        )
        for module in layer.modules()
    ]


def _extrapolated(few: _Traced, more: _Traced, size: int) -> _Traced:
    """Return what a whole model would have shown, of which two numbers of layers were traced."""
    factor = (size - few.depth) / (more.depth - few.depth)

    def whole(low: int, high: int) -> int:
        return round(low + (high - low) * factor)

    peaks = {
        name: Peak({kind: whole(low[kind], more.peaks[name][kind]) for kind in low | more.peaks[name]})
        for name, low in few.peaks.items()
        if name in more.peaks and INNER not in name
    }
    return _Traced(size, peaks, whole(few.flops, more.flops))
