"""Several processes: the process group that backends share."""

from __future__ import annotations

import gc
import itertools
import os
import sys
import traceback
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore
from torch.distributed.rendezvous import rendezvous

from hfx.backend import TorchBackend
from hfx.collective import expire, first_line
from hfx.communication import Meter
from hfx.errors import CollectiveError
from hfx.launch import LAUNCHED
from hfx.metered import register

if TYPE_CHECKING:
    from torch import Tensor
    from torch._C._distributed_c10d import Store

    from hfx.protocols import Ranks, World
    from hfx.run import Run

PATIENCE = timedelta(minutes=10)
"""How long a rank waits for the others to start."""
SILENCE = 60
"""Seconds without an answer after which the way to the store counts as cut."""


class DistributedBackend(TorchBackend):
    """A backend of several processes, which all hold the model in some way; subclasses say how.

    Tensors of a CPU are reduced by gloo, those of an accelerator by its own library (NCCL).
    """

    def __init__(self, run: Run, timeout_minutes: float = 10.0) -> None:
        """Form the process group.

        Args:
            run: A run; its `world` says which process of how many this is.
            timeout_minutes: How long a rank waits for the others before the run fails.

        Raises:
            CollectiveError: the others did not come.
        """
        super().__init__(run)
        self.rank, self.world = run.world.rank, run.world.size
        self._timeout = timedelta(minutes=timeout_minutes)
        # What an accelerator's library takes is not known to the process that calls it, which goes on at once.
        self.communication = Meter() if self.device.type == "cpu" else None
        dist.init_process_group(
            self._libraries(), store=run.store, rank=self.rank, world_size=self.world, timeout=self._timeout
        )

    def _libraries(self) -> str:
        kind = self.device.type
        if self.communication:
            return register(self.communication)
        torch.accelerator.set_device_index(self.device.index or 0)
        found = dist.get_default_backend_for_device(self.device)
        return f"cpu:gloo,{kind}:{found}"

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Add a small CPU tensor over all ranks, in place, and return it."""
        dist.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        """Wait for all ranks."""
        # Not `dist.barrier`: NCCL's needs the device, and gloo's is an all-reduce, too.
        dist.all_reduce(torch.zeros(1))

    def ranks_beside(self) -> Ranks:
        """Return how ranks agree in a thread beside the training: by a process group of its own, which all form now."""
        return _Beside(dist.new_group(backend="gloo", timeout=self._timeout))

    def drop_gradients(self) -> bool:
        """Say that the step cannot begin anew: the engine is in the middle of it, and the other ranks wait."""
        return False

    def micro_step(self, last: bool) -> AbstractContextManager[object]:
        """Return the context around a forward and backward pass."""
        return nullcontext()

    def close(self) -> None:
        """Leave the process group."""
        if not dist.is_initialized():
            return
        group = dist.group.WORLD
        dist.destroy_process_group()
        self._let_go()
        del group

    def _let_go(self) -> None:
        """Let what holds the group in torch's own code go while somebody else holds it, too.

        The last to let go joins the group's threads; DDP's reducer does so without releasing the interpreter, for which
        a thread that just ended an all-reduce may be waiting.
        """
        error = sys.exc_info()[1]
        while error is not None:
            traceback.clear_frames(error.__traceback__)  # its locals hold the module
            error = error.__cause__ or error.__context__
        self.__dict__.pop("module", None)
        self.__dict__.pop("optimizer", None)
        gc.collect()


class _Beside:
    """Ranks that agree over a group which nobody else uses."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Add a small CPU tensor over all ranks, in place, and return it."""
        dist.all_reduce(tensor, group=self._group)
        return tensor


_runs = itertools.count()


def store_of(world: World) -> Store:
    """Return the store where the ranks meet, as MASTER_ADDR and MASTER_PORT say; its keys are those of one run.

    Raises:
        CollectiveError: there is none.
    """
    if world.size == 1:
        return HashStore()
    try:
        store, _, _ = next(rendezvous("env://", world.rank, world.size, timeout=PATIENCE))
    except (dist.DistError, ValueError) as error:
        place = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
        raise CollectiveError(
            f"rank {world.rank} of {world.size} found no others at {place} ({first_line(error)}); "
            "start all of them with one launcher, and look at MASTER_ADDR and MASTER_PORT"
        ) from error
    expire(int(os.environ["MASTER_PORT"]), SILENCE)
    # The agent's store outlives the processes that it starts again, and what they wrote: old addresses, above all.
    attempt = os.environ.get(LAUNCHED) or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"hfx/{attempt}/{next(_runs)}", store)
