"""DeepSpeed's engine behind the contract of backends: driven directly, its state taken and given by parameter name.

It uses names of DeepSpeed 0.19 that are private; `constraints.txt` pins it.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock
from torch import nn
from torch.func import functional_call

from hfx import DistributedBackend, StepResult
from hfx.backend import refuse_other_groups
from hfx.errors import IncompatibleError, StorageError

if TYPE_CHECKING:
    from torch import Tensor

    from hfx import Run
    from hfx.protocols import StateReader, Values
    from hfx_plugins.backends.zero import Zero


class _StateDict(nn.Module):
    """A model whose forward pass returns its state dict."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self) -> dict[str, Tensor]:
        """Return it."""
        return self.model.state_dict()


class ZeroBackend(DistributedBackend):
    """One engine; parameters (at stage 3), gradients and optimizer's state are flat pieces on the ranks."""

    def __init__(self, run: Run, options: Zero) -> None:
        precision = run.precision
        if precision.dtype != torch.float32 or precision.scaler is not None:
            raise IncompatibleError(
                f"'zero' keeps its weights in fp32 and scales no loss, and the precision is {precision.why}; "
                "use '--plugin bf16' or '--plugin fp32'"
            )
        if run.device.type == "cpu":
            if options.offload_optimizer or options.offload_parameters:
                raise IncompatibleError("'zero' keeps what it offloads in the CPU's memory, where it is; leave it out")
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        super().__init__(run, options.timeout_minutes)
        self._options = options
        # DeepSpeed insists on it, and accelerate takes whoever has it for a process of several.
        self._sets_local_rank = "LOCAL_RANK" not in os.environ
        os.environ.setdefault("LOCAL_RANK", str(run.world.local_rank))

    def shard(self, module: nn.Module) -> nn.Module:
        """Move the module to the device; the engine cuts it when it has the optimizer."""
        module = super().shard(module)
        self._shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
        return module

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
        """Return DeepSpeed's engine.

        Raises:
            IncompatibleError: it did not engage as it was asked to.
        """
        import deepspeed

        names = {parameter: name.removeprefix("model.") for name, parameter in module.named_parameters()}
        self._groups = [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
        self._keys = [sorted(group.keys() - {"params"}) for group in optimizer.param_groups]
        self.optimizer = optimizer
        with redirect_stdout(StringIO()):  # it prints what it compiled, the first time
            _build_extensions()
            deepspeed.init_distributed(dist_backend="gloo" if self.device.type == "cpu" else "nccl", verbose=False)
        self._engine, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=self._config(), dist_init_required=False
        )
        self._zero = self._engine.optimizer
        self._engaged()
        return self._engine  # type: ignore[no-any-return]

    def _config(self) -> dict[str, Any]:
        options = self._options
        elements = int(options.bucket_mb * 2**20 / 4)
        zero: dict[str, Any] = {
            "stage": options.stage,
            "reduce_bucket_size": elements,
            "allgather_bucket_size": elements,
        }
        if self.device.type == "cpu":
            zero["overlap_comm"] = False
        if options.offload_optimizer:
            zero["offload_optimizer"] = {"device": "cpu"}
        if options.offload_parameters:
            zero["offload_param"] = {"device": "cpu"}
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,  # the boundary is said for every micro-step
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9,
        }

    def _engaged(self) -> None:
        stage = self._engine.zero_optimization_stage()
        held = sum(flat.numel() for flat in self._flats())
        total = sum(math.prod(self._shapes[name]) for name, _ in self._trained())
        # Pieces are padded, so that all ranks have alike.
        if stage != self._options.stage or held > total / self.world + 4096 * len(self._flats()):
            raise IncompatibleError(
                f"'zero' asked DeepSpeed for stage {self._options.stage} and got {stage}, with {held} of {total} "
                f"parameters on rank {self.rank} of {self.world}; use '--plugin fsdp'"
            )

    @contextmanager
    def micro_step(self, last: bool) -> Iterator[None]:
        """Tell the engine whether this is the last micro-step, in which it reduces."""
        self._engine.set_gradient_accumulation_boundary(last)
        yield
        if not last:
            self._engine.step()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-step, `()`: the engine averages, and the loss is a share of a sum."""
        self._engine.backward(loss * self.world, scale_wrt_gas=False)

    def step(self, max_norm: float | None) -> StepResult:
        """Clip and update; the engine skips an update whose norm is not finite, on all ranks."""
        self._zero.clip_grad = max_norm or 0.0
        self._engine.step()
        return StepResult(float(self._zero._global_grad_norm), bool(self._zero.overflow))

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]

    def _flats(self) -> list[Tensor]:
        """Return this rank's pieces, as the optimizer sees them."""
        zero = self._zero
        return list(zero.fp32_partitioned_groups_flat if self._three else zero.single_partition_of_fp32_groups)

    @property
    def _three(self) -> bool:
        return self._options.stage == 3

    def _members(self) -> list[list[nn.Parameter]]:
        """Return the parameters of each piece."""
        return [list(members) for members in (self._zero.fp16_groups if self._three else self._zero.bit16_groups)]

    def _relink(self) -> None:
        # With two groups of parameters the engine links their state to them once only, before the second has any.
        if not self._three:
            self._zero._hp_optimizer_states_linked = False
            self._zero._lazy_init_hp_params_optimizer_state()

    # ── state ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def state(self) -> tuple[dict[str, Tensor], Values]:
        """Return parameters, buffers and optimizer state by parameter name, whole on every rank."""
        from deepspeed.utils import safe_get_full_optimizer_state

        self._relink()
        tensors = self._parameters() | self._buffers()
        scalars: dict[str, dict[str, Any]] = {}
        names = {parameter: name.removeprefix("model.") for name, parameter in self._trained()}
        for flat, members in zip(self._flats(), self._members(), strict=True):
            for key, value in self.optimizer.state.get(flat, {}).items():
                for parameter in members:
                    name = names[parameter]
                    if not isinstance(value, torch.Tensor):
                        scalars.setdefault(name, {})[key] = value
                    elif value.shape == flat.shape:
                        whole = safe_get_full_optimizer_state(parameter, key)
                        tensors[f"optim.{name}.{key}"] = whole.view(self._shapes[f"model.{name}"]).clone()
                    else:
                        tensors[f"optim.{name}.{key}"] = value.detach().clone()
        groups = [
            {**{key: group[key] for key in keys}, "params": members}
            for group, keys, members in zip(self.optimizer.param_groups, self._keys, self._groups, strict=True)
        ]
        return tensors, {"groups": groups, "optim": scalars, "scaler": None}

    def _parameters(self) -> dict[str, Tensor]:
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_get_full_fp32_param

        found: dict[str, Tensor] = {}
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                found[name] = safe_get_full_fp32_param(parameter).view(self._shapes[name]).clone()
            else:
                with GatheredParameters([parameter], enabled=self._three):
                    found[name] = parameter.detach().clone()
        return found

    def _buffers(self) -> dict[str, Tensor]:
        kept = self.module.state_dict(keep_vars=True).keys()
        return {name: buffer.detach() for name, buffer in self.module.named_buffers() if name in kept}

    def load(self, reader: StateReader) -> None:
        """Restore parameters, buffers and optimizer state, on any stage and world size.

        Raises:
            StorageError: the checkpoint has other parameters than this model, or another optimizer's state.
        """
        buffers = self._buffers()
        saved = {name for name in reader.names() if name.startswith("model.")}
        if odd := sorted(saved ^ (self._shapes.keys() | buffers.keys())):
            raise StorageError(f"the checkpoint and the model differ in '{odd[0]}' and {len(odd) - 1} more parameters")
        for name, shape in self._shapes.items():
            if reader.shape(name) != shape:
                raise StorageError(
                    f"'{name}' has the shape {shape}, and {reader.shape(name)} in the checkpoint; resume with "
                    "the model it was saved with"
                )
        refuse_other_groups(self._groups, reader.values["groups"])
        reader.read(buffers)
        keys = self._make_state(reader)
        for name, parameter in self.module.named_parameters():
            self._load_parameter(reader, name, parameter)
            for key in keys.get(name, ()):
                self._set(parameter, self._read(reader, f"optim.{name.removeprefix('model.')}.{key}"), key)
        for group, stored in zip(self.optimizer.param_groups, reader.values["groups"], strict=True):
            group.update({k: tuple(v) if isinstance(v, list) else v for k, v in stored.items() if k != "params"})
        self._refresh()

    def _make_state(self, reader: StateReader) -> dict[str, list[str]]:
        """Make the state that a fresh engine has not, at zero, and return what is to be read for each parameter."""
        keys: dict[str, list[str]] = {}
        names = {parameter: name.removeprefix("model.") for name, parameter in self._trained()}
        of: dict[str, list[str]] = {}
        for full in reader.names():
            if full.startswith("optim."):
                name, key = full.removeprefix("optim.").rsplit(".", 1)
                of.setdefault(name, []).append(key)
        for flat, members in zip(self._flats(), self._members(), strict=True):
            state: dict[str, Any] = dict(reader.values["optim"].get(names[members[0]], {}))
            for parameter in members:
                name = names[parameter]
                for key in of.get(name, ()):
                    shape = reader.shape(f"optim.{name}.{key}")
                    if shape == self._shapes[f"model.{name}"] and shape:
                        state.setdefault(key, torch.zeros_like(flat))
                        keys.setdefault(f"model.{name}", []).append(key)
                    elif not shape:
                        state[key] = self._read(reader, f"optim.{name}.{key}")
                    else:
                        raise StorageError(
                            f"'{key}' of '{name}' has another shape than the parameter, and 'zero' cuts parameters "
                            "into flat pieces; resume with the backend it was saved with"
                        )
            if state:
                self.optimizer.state[flat] = state
        self._relink()
        return keys

    def _read(self, reader: StateReader, full: str) -> Tensor:
        tensor = torch.empty(reader.shape(full), dtype=reader.dtype(full))
        reader.read({full: tensor})
        return tensor

    def _load_parameter(self, reader: StateReader, name: str, parameter: nn.Parameter) -> None:
        from deepspeed.runtime.zero import GatheredParameters

        value = self._read(reader, name)
        if parameter.requires_grad:
            self._set(parameter, value, None)
            return
        with torch.no_grad(), GatheredParameters([parameter], modifier_rank=0, enabled=self._three):
            parameter.copy_(value)

    def _set(self, parameter: nn.Parameter, value: Tensor, key: str | None) -> None:
        from deepspeed import utils as by_name

        value = value.to(self.device)
        if not self._three and key:
            by_name.safe_set_full_optimizer_state(parameter, value, key)
        elif not self._three:
            by_name.safe_set_full_fp32_param(parameter, value)
        else:
            # DeepSpeed's own cut of a whole value fails where the ranks do not divide it.
            held: Any = parameter
            size = held.ds_tensor.numel()
            padded = value.new_zeros(size * self.world)
            padded[: value.numel()] = value.flatten()
            piece = padded[size * self.rank : size * (self.rank + 1)]
            if key:
                by_name.safe_set_local_optimizer_state(parameter, piece, key)
            else:
                by_name.safe_set_local_fp32_param(parameter, piece)

    def _refresh(self) -> None:
        """Copy the pieces into the parameters that compute."""
        zero = self._zero
        if not self._three:
            zero.update_lp_params()
            return
        for index, flat in enumerate(zero.fp32_partitioned_groups_flat):
            pieces = zero.fp16_partitioned_groups[index]
            for piece, source in zip(pieces, torch.split(flat, [p.numel() for p in pieces]), strict=True):
                piece.data.copy_(source)

    @contextmanager
    def exporting(self) -> Iterator[dict[str, Tensor]]:
        """Yield the model's full state dict on the main rank; the others help to gather it."""
        whole = self._parameters()
        values: dict[str, Tensor] = {name: nn.Parameter(value, requires_grad=False) for name, value in whole.items()}
        if self.rank == 0:
            # The state dict of the model with whole parameters in place, so that what plugins do to it sees those.
            module: Any = self.module
            full = functional_call(_StateDict(module.model), values, ())
            yield {name: tensor.cpu() for name, tensor in full.items()}
        else:
            yield {}

    def close(self) -> None:
        """Let the engine go, then leave the process group."""
        if engine := getattr(self, "_engine", None):
            import deepspeed.comm

            engine.destroy()
            del self._engine, self._zero
            self._let_go()
            deepspeed.comm.destroy_process_group()  # torch's own, and what DeepSpeed remembers of it
        if self._sets_local_rank:
            os.environ.pop("LOCAL_RANK", None)
        super().close()


def _build_extensions() -> None:
    """Build what DeepSpeed compiles when it starts, one process of a machine after the other.

    torch guards a build by a file, and a process that is killed meanwhile leaves it: every later one would wait for
    ever. In a folder that hfx alone builds in, under a lock that the system takes back, such a file is a leftover.
    """
    from deepspeed.comm.torch import build_shm_op
    from torch.utils.cpp_extension import get_default_build_root

    name = f"hfx-{sys.implementation.cache_tag}-torch-{torch.__version__}-deepspeed-{version('deepspeed')}"
    folder = Path(get_default_build_root()) / name
    # What an earlier run of this process, or the one that started it, has set is known.
    if os.environ.get("TORCH_EXTENSIONS_DIR", str(folder)) != str(folder):
        return  # a folder that others may be building in
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "hfx.lock"):
            for left in folder.glob("*/lock"):
                left.unlink()
            os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
            build_shm_op()  # DeepSpeed keeps it, so that it does not build again
    except OSError as error:
        raise StorageError(
            f"cannot write '{folder}' ({error.strerror}), where DeepSpeed compiles; set TORCH_EXTENSIONS_DIR to a "
            "folder that can be written"
        ) from error
