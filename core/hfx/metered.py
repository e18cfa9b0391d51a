"""A process group over gloo that says to a meter what it is given and when it is done.

Torch's own groups tell nobody: gloo's entries in the flight recorder have no time of completion, and the profiler costs
more than what it would measure. A group in Python is what torch has a trampoline for, so that what its C++ code calls
(DDP's reducer, functional collectives) comes here, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Work

from hfx.communication import Interval, Meter

if TYPE_CHECKING:
    from torch import Tensor

NAME = "hfx_gloo"
"""What torch knows this kind of group by."""
_CPU = torch.device("cpu")
_GIVEN = {
    "allreduce": 0, "allreduce_coalesced": 0, "broadcast": 0, "reduce": 0, "send": 0,
    "allgather": 1, "allgather_coalesced": 1, "all_gather_single": 1, "all_gather_single_coalesced": 1,
    "_allgather_base": 1, "reduce_scatter": 1, "reduce_scatter_single": 1, "reduce_scatter_single_coalesced": 1,
    "_reduce_scatter_base": 1, "all_to_all_single": 1, "alltoall_base": 1, "alltoall": 1, "gather": 1, "scatter": 1,
    "recv": None, "recv_anysource": None, "barrier": None,
}  # fmt: skip
"""Collectives by the place of what a rank gives among their arguments."""


def register(meter: Meter) -> str:
    """Let torch make groups that say to this meter what they do, and return the name to ask it for."""

    def make(options: Any, _: object) -> Metered:
        return Metered(options, meter)

    dist.Backend.register_backend(NAME, make, extended_api=True, devices=["cpu"])
    return NAME


class Metered(dist.ProcessGroup):
    """Hands everything to a group of torch's."""

    def __init__(self, options: Any, meter: Meter) -> None:
        rank, size = options.group_rank, options.group_size
        # With a store torch makes an object that does not hand back to Python what it is called for.
        super().__init__(rank, size)  # type: ignore[call-arg]
        self._meter = meter
        gloo = dist.ProcessGroupGloo(options.store, rank, size, timeout=options.timeout)
        gloo.options.global_ranks_in_group = options.global_ranks_in_group
        gloo.options.group_name = options.group_id
        gloo._set_sequence_number_for_group()
        kind = dist.ProcessGroup.BackendType.GLOO
        self._inner = dist.ProcessGroup(options.store, rank, size)
        for group in (self._inner, self):  # torch asks a group for its backend, to see what it can
            group._set_default_backend(kind)
            group._register_backend(_CPU, kind, gloo)
        self._inner._set_group_name(options.group_id)

    def getBackendName(self) -> str:  # noqa: N802  (torch's name)
        """Return the kind of the group."""
        return NAME

    def call(self, name: str, given: int | None, arguments: Sequence[Any], named: dict[str, Any]) -> Work:
        """Call a collective of the group behind."""
        interval = Interval()
        work = getattr(self._inner, name)(*arguments, **named)
        options = named.get("opts", arguments[-1] if arguments else None)
        receives = name == "broadcast" and getattr(options, "rootRank", self.rank()) != self.rank()
        self._meter.called(interval, 0 if given is None or receives else size_of(arguments[given]))
        # Who waits at once sees the end for itself; a callback would take the interpreter in one of gloo's threads.
        return Ended(work, interval, self._meter, by_future=getattr(options, "asyncOp", True))


def _handed(name: str, given: int | None) -> Callable[..., Work]:
    def call(self: Metered, *arguments: Any, **named: Any) -> Work:
        return self.call(name, given, arguments, named)

    call.__name__ = name
    return call


for _name, _given in _GIVEN.items():
    setattr(Metered, _name, _handed(_name, _given))


class Ended(Work):
    """A collective under way, whose end is noted."""

    def __init__(self, work: Work, interval: Interval, meter: Meter, by_future: bool) -> None:
        super().__init__()
        self._work, self._interval, self._meter = work, interval, meter
        if by_future:
            # Gloo's reduce_scatter, and what is sent to one rank, have none: they end with the wait for them.
            with suppress(RuntimeError):
                work.get_future().add_done_callback(interval.done)

    def wait(self, timeout: timedelta = timedelta(0)) -> bool:
        """Block until it is done."""
        under_way = self._interval.end is None
        with self._meter.waiting():
            done = self._work.wait(timeout)
        if under_way:
            self._interval.done()  # it is where whoever waits for it goes on
        return done

    def get_future(self) -> Any:
        """Return the future of the group behind."""
        return self._work.get_future()

    def is_completed(self) -> bool:
        """Say whether it is done."""
        return self._work.is_completed()

    def is_success(self) -> bool:
        """Say whether it went well."""
        return self._work.is_success()

    def exception(self) -> Any:
        """Return what went wrong."""
        return self._work.exception()

    def result(self) -> list[Tensor]:
        """Return the tensors."""
        return self._work.result()

    def synchronize(self) -> None:
        """Let the device wait for it."""
        self._work.synchronize()

    def source_rank(self) -> int:
        """Return who sent it."""
        return self._work.source_rank()


def size_of(given: Tensor | Iterable[Any]) -> int:
    """Return the bytes of a tensor, or of those in lists."""
    if isinstance(given, torch.Tensor):
        return given.numel() * given.element_size()
    return sum(size_of(part) for part in given)
