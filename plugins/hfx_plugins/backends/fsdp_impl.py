"""fully_shard behind the contract of backends: parameters are DTensors, sharded over the ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from hfx import DistributedBackend, Shares, Stretch
from hfx.errors import IncompatibleError
from hfx_plugins.backends.sharing import layers_of, several_micro_steps, size_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hfx import Run
    from hfx.protocols import StateReader, Values
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

    def load(self, reader: StateReader) -> None:
        """Restore parameters, buffers and optimizer state."""
        self._reshard()
        super().load(reader)

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
    """Return the blocks that transformers says may not be split, outermost first, without those tied to another part.

    BERT's embeddings are such a block, and its head has their weights, which have to be gathered for both together.

    Raises:
        IncompatibleError: the model names none, or has none of them.
    """
    uses = _uses(model)
    found = [layer for layer in layers_of(model) if all(uses[key] == count for key, count in _uses(layer).items())]
    if not found:
        raise IncompatibleError(
            f"'fsdp' shards layer by layer, and '{type(model).__name__}' does not say what its layers are; "
            "use '--plugin ddp' or '--plugin zero'"
        )
    return found


def _uses(module: nn.Module) -> Counter[int]:
    """Return how often each parameter is held within a module."""
    return Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))


def _local_bytes(module: nn.Module) -> int:
    """Return the bytes of parameters that this process holds."""
    parts = (p.to_local() if isinstance(p, DTensor) else p for p in module.parameters())
    return sum(part.numel() * part.element_size() for part in parts)


# ── what a rank holds ────────────────────────────────────────────────────────────────────────────────────────────────


def shares(options: Fsdp, run: Run, module: nn.Module, ranks: int) -> Shares:
    """Return what a rank holds, as torch 2.13 does it."""
    parameters = list(module.parameters())
    share = sum(_shard_size(p, ranks) for p in parameters) / size_of(parameters)
    held = _Gathered(options, module, share, several_micro_steps(run, ranks))
    return Shares(parameters=share, gradients=share, state=share, beside=held.beside)


def _shard_size(parameter: nn.Parameter, ranks: int) -> int:
    """Return the bytes of the largest shard: a parameter is cut along its first dimension."""
    rows = parameter.shape[0] if parameter.dim() else 1
    return -(-rows // ranks) * (parameter.numel() // max(1, rows)) * parameter.element_size()


class _Gathered:
    """What is whole on a rank, and for how long.

    What belongs to no layer (embedding, head) is gathered from the forward pass on to the end of the backward pass, and
    its gradients are reduced then. A layer is gathered into one buffer and copied out of it; in the forward pass the
    buffer stays until the next layer's is there. In the backward pass the next layer is gathered ahead, and a layer's
    gradients are copied into a buffer that is reduced, which stays until the next one. Where a step has several
    micro-batches, gradients stay whole until the last one.
    """

    def __init__(self, options: Fsdp, module: nn.Module, share: float, several: bool) -> None:
        self._kept, self._several, self._share = not options.reshard, several, share
        reduced = _DTYPES[options.reduce_in]
        layers = [list(layer.parameters()) for layer in _layers(cast("Any", module).model)]
        inside = {id(p) for layer in layers for p in layer}
        rest = [p for p in module.parameters() if id(p) not in inside]
        self._layers = [size_of(layer) for layer in layers]
        self._gradients = [size_of(_trained(layer)) for layer in layers]
        self._largest = max(self._layers)
        self._reduced = max(size_of(_trained(layer), reduced) for layer in layers)
        self._rest, self._rest_reduced = size_of(rest), size_of(_trained(rest), reduced)
        trained = [p for p in module.parameters() if p.requires_grad]
        self._added_in = size_of(trained, reduced) / max(1, size_of(trained))

    def beside(self, stretch: Stretch) -> dict[str, int]:
        """Return the bytes of what is whole, and of buffers."""
        if stretch.phase in ("build", "optimizer"):
            return {}
        forward = stretch.phase.startswith("forward")
        gathered = self._forward(stretch) if forward else self._backward(stretch)
        return {"gathered parameters": gathered} | self._whole_gradients(stretch, forward)

    def _forward(self, stretch: Stretch) -> int:
        kept = sum(self._layers[: stretch.done if stretch.layers else None]) if self._kept else 0
        if stretch.phase == "forward of the loss":
            return self._rest + kept + self._largest
        return self._rest + max(kept + 2 * self._largest, self._rest if not stretch.done else 0)

    def _backward(self, stretch: Stretch) -> int:
        left = self._layers[: len(self._layers) - stretch.done]
        if stretch.phase == "backward of the loss" and stretch.layers:
            return self._rest + (sum(left) if self._kept else 0)
        ahead = 2 if len(left) > 1 or not stretch.layers else 1
        gathered = self._rest + (sum(left) if self._kept else ahead * self._largest)
        gathered += self._reduced if stretch.done or not stretch.layers else 0
        return max(gathered, self._rest_reduced) if len(left) == 1 else gathered

    def _whole_gradients(self, stretch: Stretch, forward: bool) -> dict[str, int]:
        """Return the bytes of gradients, those that are not reduced yet whole."""
        if self._several:
            return {"gradients": round(stretch.gradients * max(1.0, self._added_in))}
        if forward:
            return {}
        if stretch.layers:
            done = min(stretch.gradients, sum(self._gradients[len(self._gradients) - stretch.done :]))
        else:
            done = max(0, stretch.gradients - self._rest_reduced - max(self._gradients))
        return {"gradients": round(stretch.gradients - done * (1 - self._share))}


def _trained(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [p for p in parameters if p.requires_grad]
