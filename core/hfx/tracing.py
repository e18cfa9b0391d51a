"""What a piece of torch code would hold in memory, found out without holding it.

Floating-point tensors are fake: they have a shape and no content. Integers and booleans are real, since shapes follow
from them (which positions carry a label, which document a token belongs to), and they are small. Every storage that
comes into being or goes is recorded, so for any moment it is known what was alive.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from hfx.rates import operations

_aten = torch.ops.aten
_MASKED = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default}


@dataclass(eq=False, slots=True)
class Storage:
    """A storage's bytes and what it is for; the moments at which it came and went (None: it is still there)."""

    size: int
    born: int
    kind: str = "temporary"
    died: int | None = None


@dataclass
class Recording:
    """All storages of a trace, and where its segments begin."""

    storages: list[Storage] = field(default_factory=list)
    segments: list[tuple[str, int]] = field(default_factory=list)
    """Name and first moment of each segment, in order."""
    moments: int = 0

    def peaks(self) -> dict[str, Peak]:
        """Return the peak of each segment, by name; of segments with the same name the highest."""
        changes: list[tuple[int, int, Storage]] = []
        for storage in self.storages:
            changes.append((storage.born, 1, storage))
            if storage.died is not None:
                changes.append((storage.died, 0, storage))
        changes.sort(key=lambda change: change[:2])  # at one moment what goes goes first
        starts = [*self.segments, ("", self.moments + 1)]
        found: dict[str, Peak] = {}
        alive: Counter[str] = Counter()
        at = 0
        for (name, _), (_, end) in pairwise(starts):
            best = Peak(alive)
            while at < len(changes) and changes[at][0] < end:
                _, coming, storage = changes[at]
                alive[storage.kind] += storage.size if coming else -storage.size
                at += 1
                if coming and sum(alive.values()) > best.total():
                    best = Peak(alive)
            if name not in found or best.total() > found[name].total():
                found[name] = best
        return found


class Peak(Counter[str]):
    """Bytes by kind at the moment at which they were most; `total()` is their sum."""


class _RealIntegers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes for real what has to do with integers and booleans alone; below it lies the mode of fake tensors."""

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fake = fake

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is _aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            # A norm or a loss is nobody's to know; the optimizer's count of steps is a constant.
            return 0.0 if args[0].constant is None else args[0].constant.item()
        if func in _MASKED:
            args = (args[0], [each for index in args[1] for each in _positions(index)], *args[2:])
        tensors = [leaf for leaf in tree_iter((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(isinstance(tensor, FakeTensor) or tensor.is_floating_point() for tensor in tensors):
            return func(*args, **kwargs)
        if not tensors and _has_floats(made := func(*args, **kwargs)):
            return made
        with unset_fake_temporarily():
            made = func(*args, **kwargs)
        return tree_map_only(Tensor, self._fake.from_tensor, made) if _has_floats(made) else made


def _has_floats(made: Any) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in tree_iter(made))


def _positions(index: Any) -> Iterable[Any]:
    """Return what an index stands for, a real mask as the positions that it chooses: their number is known."""
    if isinstance(index, Tensor) and not isinstance(index, FakeTensor) and index.dtype in (torch.bool, torch.uint8):
        with unset_fake_temporarily():
            return index.nonzero(as_tuple=True)
    return (index,)


@contextmanager
def _movable() -> Iterator[None]:
    """Let modules of fake parameters be cast, moved and copied: torch swaps contents, or copies what is not there."""
    torchs_own: Any = nn.Module._apply
    moved: Any = WeakTensorKeyDictionary()

    def apply(self: Any, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        fakes: dict[str, Any] = {name: p for name, p in self._parameters.items() if isinstance(p, FakeTensor)}
        if not fakes:
            return torchs_own(self, fn, recurse)
        for child in self.children() if recurse else ():
            child._apply(fn)
        for name, parameter in fakes.items():
            with torch.no_grad():
                made = fn(parameter)
            if (made.dtype, made.device) != (parameter.dtype, parameter.device):
                # Tied parameters stay one.
                self._parameters[name] = moved.setdefault(parameter, nn.Parameter(made, parameter.requires_grad))
        self._buffers.update({name: fn(buffer) for name, buffer in self._buffers.items() if buffer is not None})
        return self

    def copied(self: FakeTensor, memo: dict[int, Any]) -> Any:
        made: Any = self.detach().clone()
        memo[id(self)] = made = nn.Parameter(made, self.requires_grad) if isinstance(self, nn.Parameter) else made
        return made

    nn.Module._apply = apply  # type: ignore[method-assign]
    FakeTensor.__deepcopy__ = copied  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module._apply = torchs_own  # type: ignore[method-assign]
        del FakeTensor.__deepcopy__


class Tracer:
    """Records the storages of everything that runs inside `tracing()`."""

    def __init__(self) -> None:
        self.recording = Recording()
        self.flops = 0
        """Floating-point operations so far, two for a multiplication with its addition; what torch knows of."""
        self._alive: dict[int, Storage] = {}

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """Run what is inside on fake tensors, recorded."""
        with ExitStack() as stack:
            fake = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            stack.enter_context(_RealIntegers(fake))
            stack.enter_context(_Recorder(self))
            stack.enter_context(_movable())
            yield

    def segment(self, name: str) -> None:
        """Let a segment begin."""
        self.recording.segments.append((name, self.recording.moments + 1))

    def mark(self, kind: str, tensors: Iterable[Tensor]) -> None:
        """Say what the storages of some tensors are for."""
        for tensor in tensors:
            if storage := self._alive.get(tensor.untyped_storage()._cdata):
                storage.kind = kind

    def mark_rest(self, kind: str) -> None:
        """Say what everything that is alive and has no kind yet is for."""
        for storage in self._alive.values():
            if storage.kind == "temporary":
                storage.kind = kind

    def take(self, result: Any) -> None:
        """Record the storages of what an operation returned."""
        self.recording.moments += 1
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._alive:
                    record = Storage(storage.nbytes(), self.recording.moments)
                    self._alive[storage._cdata] = record
                    self.recording.storages.append(record)
                    weakref.finalize(storage, self._gone, storage._cdata)

    def _gone(self, key: int) -> None:
        if record := self._alive.pop(key, None):
            record.died = self.recording.moments + 1


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, tracer: Tracer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tracer = tracer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self._tracer.take(result)
        self._tracer.flops += operations(func, args, kwargs, result)
        return result
