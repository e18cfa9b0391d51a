"""DeepSpeed ZeRO behind the backend contract: the engine driven directly, state by parameter name."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")
logging.disable(logging.WARNING)

import deepspeed  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from deepspeed.runtime.zero.stage3 import combine_grad_norm_groups  # noqa: E402
from deepspeed.utils import (  # noqa: E402
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn  # noqa: E402

from hfx import Run, StepResult  # noqa: E402


class ZeroBackend:
    """One engine; parameters and state are flat partitions over the ranks."""

    def __init__(self, run: Run, stage: int) -> None:
        deepspeed.init_distributed(dist_backend="gloo", verbose=False)
        self.stage = stage
        self.world = dist.get_world_size()
        self.rank = dist.get_rank()
        self.max_norm = run.config.max_grad_norm or 0.0

    def building(self) -> AbstractContextManager[Any]:
        from contextlib import nullcontext

        return nullcontext()

    def shard(self, module: nn.Module) -> nn.Module:
        self.module = module
        return module

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
        config = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": self.max_norm,
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 10**9,
            "zero_optimization": {
                "stage": self.stage,
                "reduce_bucket_size": 20_000,
                "overlap_comm": False,
                "stage3_param_persistence_threshold": 0,
            },
        }
        self.engine, _, _, _ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=config, dist_init_required=False
        )
        assert self.engine.zero_optimization_stage() == self.stage, "DeepSpeed did not engage"
        self.inner = optimizer
        return self.engine

    @contextmanager
    def micro_step(self, last: bool) -> Iterator[None]:
        self.engine.set_gradient_accumulation_boundary(last)
        yield
        if not last:
            self.engine.step()

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss * self.world, scale_wrt_gas=False)

    def step(self, max_norm: float | None) -> StepResult:
        zero = self.engine.optimizer
        norm = zero.scaled_global_norm() if self.stage < 3 else combine_grad_norm_groups(zero._get_norm_groups())
        self.engine.step()
        return StepResult(float(norm), not math.isfinite(float(norm)))

    def all_reduce(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        dist.barrier()

    def close(self) -> None:
        dist.destroy_process_group()

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]

    def _relink(self) -> None:
        # With two parameter groups the moments are linked once only.
        if self.stage < 3:
            self.engine.optimizer._hp_optimizer_states_linked = False
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _flats(self) -> list[Tensor]:
        zero = self.engine.optimizer
        return list(zero.single_partition_of_fp32_groups if self.stage < 3 else zero.fp32_partitioned_groups_flat)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._relink()
        tensors: dict[str, Tensor] = {}
        for name, parameter in self._trained():
            tensors[name] = safe_get_full_fp32_param(parameter).clone()
            for key in ("exp_avg", "exp_avg_sq"):
                found = safe_get_full_optimizer_state(parameter, key)
                if found is not None:
                    tensors[f"optim.{name.removeprefix('model.')}.{key}"] = found.clone()
        steps = [float(s["step"]) for s in self.inner.state.values() if "step" in s]
        groups = [{k: v for k, v in g.items() if k != "params"} for g in self.inner.param_groups]
        return tensors, {"step": steps[0] if steps else 0.0, "groups": groups}

    def load(self, reader: Any) -> None:
        step = reader.values["step"]
        for flat in self._flats():
            self.inner.state[flat] = {
                "step": torch.tensor(step), "exp_avg": torch.zeros_like(flat), "exp_avg_sq": torch.zeros_like(flat)
            }  # fmt: skip
        self._relink()
        for name, parameter in self._trained():
            tensors = {n: torch.empty(reader.shape(n)) for n in self._names(name, reader)}
            reader.read(tensors)
            for full, tensor in tensors.items():
                self._set(parameter, full, tensor)
        for group, saved in zip(self.inner.param_groups, reader.values["groups"], strict=True):
            group["lr"] = saved["lr"]
        self._refresh()

    def _names(self, name: str, reader: Any) -> list[str]:
        moments = [f"optim.{name.removeprefix('model.')}.{key}" for key in ("exp_avg", "exp_avg_sq")]
        return [name, *moments]

    def _set(self, parameter: Any, full: str, value: Tensor) -> None:
        key = full.rsplit(".", 1)[1] if full.startswith("optim.") else None
        if self.stage == 3:
            size = parameter.ds_tensor.numel()
            padded = torch.zeros(size * self.world)
            padded[: value.numel()] = value.flatten()
            part = padded[size * self.rank : size * (self.rank + 1)]
            if key:
                safe_set_local_optimizer_state(parameter, part, key)
            else:
                safe_set_local_fp32_param(parameter, part)
        elif key:
            safe_set_full_optimizer_state(parameter, value, key)
        else:
            safe_set_full_fp32_param(parameter, value)

    def _refresh(self) -> None:
        """Copy the full-precision partitions into the working parameters."""
        zero = self.engine.optimizer
        if self.stage < 3:
            zero.update_lp_params()
            return
        for index in range(len(zero.fp16_groups)):
            sizes = [q.numel() for q in zero.fp16_partitioned_groups[index]]
            parts = torch.split(zero.fp32_partitioned_groups_flat[index], sizes)
            for parameter, part in zip(zero.fp16_partitioned_groups[index], parts, strict=True):
                parameter.data.copy_(part)

    @contextmanager
    def exporting(self) -> Iterator[dict[str, Tensor]]:
        tensors = {name: safe_get_full_fp32_param(p).clone() for name, p in self._trained()}
        yield {name.removeprefix("model."): tensor for name, tensor in tensors.items()} if self.rank == 0 else {}
