"""fully_shard behind the contract of backends: parameters are DTensors, sharded over the ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from hfx import DistributedBackend, Shares
from hfx.errors import IncompatibleError
from hfx_plugins.backends.sharing import size_of, trained_size

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hfx import Run
    from hfx.protocols import Values
    from hfx_plugins.backends.fsdp import Fsdp

_DTYPES = {"same": None, "bf16": torch.bfloat16, "fp32": torch.float32}


class FsdpBackend(DistributedBackend):
    """Shards of everything; whole layers while they compute."""

    def __init__(self, run: Run, options: Fsdp) -> None:
        if options.offload and run.device.type == "cpu":
            raise IncompatibleError("'fsdp.offload' keeps shards in the CPU's memory, where they are; leave it out")
        super().__init__(run, options.timeout_minutes)
        self._options = options

    def shard(self, module: nn.Module) -> nn.Module:
        """Return the module with its parameters sharded, layer by layer.

        Raises:
            IncompatibleError: no layers were found, or nothing was sharded.
        """
        module = super().shard(module)
        before = _local_bytes(module)
        options = self._options
        how: dict[str, Any] = {
            "mesh": init_device_mesh(self.device.type, (self.world,)),
            "mp_policy": MixedPrecisionPolicy(_DTYPES[options.gather_in], _DTYPES[options.reduce_in]),
        }
        if options.offload:
            how["offload_policy"] = CPUOffloadPolicy()
        model: Any = module.model
        for layer in _layers(model):
            fully_shard(layer, reshard_after_forward=options.reshard, **how)
        fully_shard(module, **how)
        after = _local_bytes(module)
        # Layers of a few odd sizes are padded; a rank that holds most of the model has not been given a share of it.
        if after > before * (0.5 + 0.5 / self.world):
            raise IncompatibleError(
                f"'fsdp' left {after} of {before} bytes of parameters on rank {self.rank} of {self.world}, so it did "
                "not engage; use '--plugin ddp'"
            )
        return module

    @contextmanager
    def micro_step(self, last: bool) -> Iterator[None]:
        """Reduce gradients in the last micro-step; the others keep theirs whole."""
        sharded: Any = self.module
        sharded.set_requires_gradient_sync(last)
        yield

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-step, `()`: the engine averages, and the loss is a share of a sum."""
        super().backward(loss * self.world)

    def state(self) -> tuple[dict[str, Tensor], Values]:
        """Return parameters, buffers and optimizer state by parameter name, sharded."""
        self._reshard()
        return super().state()

    def _reshard(self) -> None:
        # A forward pass without a backward one (an evaluation) leaves the root's parameters gathered.
        for module in self.module.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    @contextmanager
    def exporting(self) -> Iterator[dict[str, Tensor]]:
        """Yield the model's full state dict on the main rank; the others help to gather it."""
        self._reshard()
        model: Any = self.module.model
        full: dict[str, Tensor] = {}
        gathered: dict[int, Tensor] = {}  # tied parameters stay one tensor, which is written once
        for name, tensor in model.state_dict(keep_vars=True).items():
            if id(tensor) not in gathered:
                whole = tensor.detach()
                whole = whole.full_tensor() if isinstance(whole, DTensor) else whole
                gathered[id(tensor)] = whole.cpu() if self.rank == 0 else whole.new_empty(0)
            full[name] = gathered[id(tensor)]
        yield full if self.rank == 0 else {}


def _layers(model: nn.Module) -> list[nn.Module]:
    """Return the blocks that transformers says may not be split, outermost first.

    Raises:
        IncompatibleError: the model names none, or has none of them.
    """
    names = {name for part in model.modules() for name in getattr(part, "_no_split_modules", None) or ()}
    found = [module for module in model.modules() if type(module).__name__ in names]
    if not found:
        raise IncompatibleError(
            f"'fsdp' shards layer by layer, and '{type(model).__name__}' does not say what its layers are; "
            "use '--plugin ddp' or '--plugin zero'"
        )
    return found


def _local_bytes(module: nn.Module) -> int:
    """Return the bytes of parameters that this process holds."""
    parts = (p.to_local() if isinstance(p, DTensor) else p for p in module.parameters())
    return sum(part.numel() * part.element_size() for part in parts)


def shares(options: Fsdp, module: nn.Module, ranks: int, several: bool) -> Shares:
    """Return what a rank holds: shards, the layers at work, and all along what belongs to no layer (embedding, head).

    A layer is gathered into one piece and copied out of it. In its backward pass come its whole gradients and, at the
    end, those of what belongs to no layer, each once more in the piece from which they are reduced. How much of a layer
    that is at once was measured: three times its size on two ranks, three and a half on four. Where a step has several
    micro-batches, gradients stay whole until the last one.
    """
    model: Any = module.model
    gathered = _DTYPES[options.gather_in]
    layers = _layers(model)
    inside = {id(p) for layer in layers for p in layer.parameters()}
    largest = max(size_of(layer.parameters(), gathered) for layer in layers)
    rest = [p for p in model.parameters() if id(p) not in inside]
    around = size_of(rest, gathered)
    reduced = size_of([p for p in rest if p.requires_grad], gathered)
    whole = 0 if options.reshard else sum(size_of(layer.parameters(), gathered) for layer in layers) - largest
    return Shares(
        parameters=1 / ranks,
        gradients=1 / ranks,
        state=1 / ranks,
        most_gradients=trained_size(module) if several else None,
        beside={
            "forward": around + whole + 2 * largest,
            "backward": around + whole + max(4 * largest - 2 * largest // ranks, 2 * reduced),
        },
    )
