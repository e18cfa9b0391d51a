"""DistributedDataParallel behind the contract of backends."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from hfx import DistributedBackend

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hfx import Run

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class DdpBackend(DistributedBackend):
    """Whole replicas; gradients are averaged in the last backward pass of a step."""

    def __init__(self, run: Run, timeout_minutes: float, reduce_in: str = "same", bucket_mb: float = 25.0) -> None:
        super().__init__(run, timeout_minutes)
        self._reduce_in, self._bucket_mb = reduce_in, bucket_mb

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
        """Return the module wrapped."""
        self.optimizer = optimizer
        self._wrapped = DistributedDataParallel(
            module,
            bucket_cap_mb=self._bucket_mb,
            # Else the buckets are rebuilt after the first step, and a resumed run sums in another order.
            find_unused_parameters=True,
        )
        if self._reduce_in != "same":
            # A lambda, since torch looks at a hook's annotations, and takes no strings for them.
            hook: Any = lambda dtype, bucket: _in_fewer_bits(dtype, bucket)  # noqa: E731
            self._wrapped.register_comm_hook(_DTYPES[self._reduce_in], hook)
        return self._wrapped

    def micro_step(self, last: bool) -> AbstractContextManager[Any]:
        """Return the context around a forward and backward pass; all but the last keep their gradients."""
        return nullcontext() if last else self._wrapped.no_sync()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-step, `loss` of shape `()`: DDP averages, and the loss is a share of a sum."""
        loss = loss * self.world
        # Its reducer waits in C++, at the end of the pass.
        with self.communication.backward(loss) if self.communication else nullcontext():
            super().backward(loss)

    def close(self) -> None:
        """Let the wrapper go, then leave the process group."""
        self.__dict__.pop("_wrapped", None)
        super().close()


def _in_fewer_bits(dtype: torch.dtype, bucket: Any) -> torch.futures.Future[Tensor]:
    """Average a bucket of gradients in another dtype; torch's own hook for bf16 refuses gloo, which can."""
    sent = bucket.buffer().to(dtype).div_(dist.get_world_size())
    reduced = dist.all_reduce(sent, async_op=True).get_future()
    return reduced.then(lambda done: bucket.buffer().copy_(done.value()[0]))  # type: ignore[no-any-return]
