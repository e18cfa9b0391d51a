"""`TorchBackend`: the backend for one process, and the base of those that keep torch's own module and optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from hfx.errors import ConfigError, IncompatibleError, StorageError
from hfx.protocols import StateReader, StepResult, Values

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hfx.communication import Meter
    from hfx.protocols import Ranks
    from hfx.run import Run


class TorchBackend:
    """One process on one device; subclasses override what their engine does otherwise.

    State is kept by parameter name (`model.NAME`, `optim.NAME.KEY`), so that it enters any other backend.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    communication: Meter | None = None
    """Counts what collectives send and take, where that is known."""

    def __init__(self, run: Run) -> None:
        self.device: torch.device = run.device
        self._planning = run.planning
        self.scaler: torch.amp.GradScaler | None = run.precision.scaler

    def building(self) -> AbstractContextManager[Any]:
        """Return the context around `hfx_model`: none, or the device where nothing can be moved there later."""
        return self.device if self._planning else nullcontext()

    def shard(self, module: nn.Module) -> nn.Module:
        """Move the module to the device."""
        placed = getattr(module.model, "hf_device_map", None)
        _refuse_offloaded(module)
        there = all(tensor.device == self.device for tensor in (*module.parameters(), *module.buffers()))
        # Tensors without content (`hfx plan`) cannot be moved, and are made where they belong.
        self.module = module if placed or there else module.to(self.device)
        return self.module

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
        """Return the module as it is."""
        self.optimizer = optimizer
        return module

    def micro_step(self, last: bool) -> AbstractContextManager[Any]:
        """Return the context around a forward and backward pass: none."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-step, `loss` of shape `()`."""
        scaled = self.scaler.scale(loss) if self.scaler else loss
        torch.autograd.backward(scaled)

    def drop_gradients(self) -> bool:
        """Drop them, and say that the step can begin anew."""
        self.optimizer.zero_grad(set_to_none=True)
        return True

    def step(self, max_norm: float | None) -> StepResult:
        """Clip to the norm over all parameters and update; skip the update where the norm is not finite."""
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        norm = float(_full(torch.nn.utils.clip_grad_norm_(parameters, max_norm or math.inf)))
        skipped = not math.isfinite(norm)
        if self.scaler:
            # Its own look at the gradients misses a norm that is not finite though they are.
            if not skipped:
                self.scaler.step(self.optimizer)
            self.scaler.update()
        elif not skipped:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(norm, skipped)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Return the tensor: there is one process."""
        return tensor

    def barrier(self) -> None:
        """Wait for nobody."""

    def ranks_beside(self) -> Ranks:
        """Return how ranks agree in a thread beside the training: there is one."""
        return self

    def close(self) -> None:
        """Close nothing."""

    @contextmanager
    def exporting(self) -> Iterator[dict[str, Tensor]]:
        """Yield the model's state dict; weights that lie on disk are read into memory."""
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        model: Any = self.module.model
        yield get_state_dict_offloaded_model(model) if _offloaded(model) else model.state_dict()

    def state(self) -> tuple[dict[str, Tensor], Values]:
        """Return parameters, buffers and optimizer state by parameter name; groups and scalars as JSON values."""
        tensors: dict[str, Tensor] = {name: tensor.detach() for name, tensor in _tensors(self.module)}
        scalars: dict[str, dict[str, Any]] = {}
        names: dict[Tensor, str] = {
            parameter: name.removeprefix("model.") for name, parameter in self.module.named_parameters()
        }
        for parameter, state in self.optimizer.state.items():
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optim.{names[parameter]}.{key}"] = value.detach()
                else:
                    scalars.setdefault(names[parameter], {})[key] = value
        groups = [
            {**{k: v for k, v in group.items() if k != "params"}, "params": [names[p] for p in group["params"]]}
            for group in self.optimizer.param_groups
        ]
        scaler = self.scaler.state_dict() if self.scaler else None
        return tensors, {"groups": groups, "optim": scalars, "scaler": scaler}

    def load(self, reader: StateReader) -> None:
        """Restore parameters, buffers and optimizer state.

        Raises:
            StorageError: the checkpoint has other parameters than this model.
        """
        into = {name: tensor.detach() for name, tensor in _tensors(self.module)}
        saved = {name for name in reader.names() if name.startswith("model.")}
        if saved != set(into):
            odd = sorted(saved ^ set(into))
            raise StorageError(f"the checkpoint and the model differ in '{odd[0]}' and {len(odd) - 1} more parameters")
        named = {name.removeprefix("model."): p for name, p in self.module.named_parameters()}
        names = {parameter: name for name, parameter in named.items()}
        refuse_other_groups(
            [[names[p] for p in group["params"]] for group in self.optimizer.param_groups], reader.values["groups"]
        )
        states = self._empty_states(reader, named)
        reader.read(into | {f"optim.{n}.{k}": t for n, s in states.items() for k, t in s.items()})
        for name, scalars in reader.values["optim"].items():
            states.setdefault(name, {}).update(scalars)
        for parameter in named.values():
            self.optimizer.state.pop(parameter, None)  # what it had not when it was saved
        for name, state in states.items():
            self.optimizer.state[named[name]] = state
        for group, stored in zip(self.optimizer.param_groups, reader.values["groups"], strict=True):
            group.update({k: _like(group.get(k), v) for k, v in stored.items() if k != "params"})
        if self.scaler and reader.values["scaler"]:
            self.scaler.load_state_dict(reader.values["scaler"])

    def _empty_states(self, reader: StateReader, named: dict[str, nn.Parameter]) -> dict[str, dict[str, Any]]:
        """Return optimizer state to read into: shaped (and sharded) like the parameter where it has its shape."""
        saved = reader.values["groups"]  # whose values the groups take
        on_device = {name for g in saved if g.get("fused") or g.get("capturable") for name in g["params"]}
        states: dict[str, dict[str, Any]] = {}
        for full in reader.names():
            if not full.startswith("optim."):
                continue
            name, key = full.removeprefix("optim.").rsplit(".", 1)
            parameter, shape, dtype = named[name], reader.shape(full), reader.dtype(full)
            if shape == tuple(parameter.shape) and shape:
                tensor: Tensor = torch.empty_like(parameter.detach(), dtype=dtype)
            else:
                device = parameter.device if shape or name in on_device else torch.device("cpu")
                tensor = torch.empty(shape, dtype=dtype, device=device)
            states.setdefault(name, {})[key] = tensor
        return states


def refuse_other_groups(now: list[list[str]], saved: list[Values]) -> None:
    """Refuse to give groups of parameters the values of others: rates and decays are saved by group.

    Args:
        now: The names of each group's parameters.
        saved: A checkpoint's groups.

    Raises:
        ConfigError: a parameter is in another group than it was, or there are more or fewer groups.
    """
    was = {name: index for index, group in enumerate(saved) for name in group["params"]}
    moved = [
        f"'{name}' was in group {was[name] + 1} and is in {index + 1}"
        for index, members in enumerate(now)
        for name in members
        if was.get(name, index) != index
    ]
    if moved or len(now) != len(saved):
        what = moved[0] if moved else f"there were {len(saved)}, and there are {len(now)}"
        raise ConfigError(
            f"the optimizer's groups of parameters are others than in the checkpoint ({what}); resume with the options "
            "that made them ('parameter_groups', what is trained), or begin anew from the run's 'model' folder"
        )


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and persistent buffers, tied ones once; not those that lie elsewhere and are never trained."""
    yield from ((name, parameter) for name, parameter in module.named_parameters() if parameter.device.type != "meta")
    kept = module.state_dict(keep_vars=True).keys()
    yield from ((name, buffer) for name, buffer in module.named_buffers() if name in kept)


def _offloaded(module: nn.Module) -> list[str]:
    """Return the names of parameters that are read from elsewhere whenever they are used."""
    return [name for name, parameter in module.named_parameters() if parameter.device.type == "meta"]


def _refuse_offloaded(module: nn.Module) -> None:
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    if lost := sorted(trained & set(_offloaded(module))):
        raise IncompatibleError(
            f"'{lost[0].removeprefix('model.')}' and {len(lost) - 1} more parameters lie outside the device and cannot "
            "be trained there; add '--plugin lora', or let the device take more ('pretrained.max_memory')"
        )


def _full(tensor: Any) -> Any:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _like(old: Any, stored: Any) -> Any:
    """Return a JSON value as the type it had: tuples come back as lists, a tensor learning rate as a number."""
    if isinstance(old, tuple):
        return tuple(stored)
    if isinstance(old, torch.Tensor):
        return torch.as_tensor(stored, dtype=old.dtype, device=old.device)
    return stored
