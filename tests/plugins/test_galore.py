from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from pytorch_optimizer.optimizer.galore import GaLore as Library

from hfx import ParamGroups, Run
from hfx.api import problems
from hfx.errors import IncompatibleError
from hfx.plan import plan
from hfx.resolve import resolve
from hfx_plugins.models.scratch import Scratch
from hfx_plugins.optimizers.galore import Galore
from hfx_plugins.precision.fp32 import FP32
from hfx_plugins.tokenizers.bpe import Bpe
from tiny_models import TinyRun, losses, share_of_adamw, tiny_llama

PLUGIN = Galore(
    lr=5e-3, rank=8, update_every=3, scale=0.5, beta1=0.8, beta2=0.95, eps=1e-7, weight_decay=0.2
)  # fmt: skip


@dataclass(frozen=True)
class RunOf(TinyRun):
    """A run that has built its model."""

    model: Any = None


def optimizer_of(model: torch.nn.Module, plugin: Galore = PLUGIN) -> torch.optim.Optimizer:
    return plugin.hfx_optimizer(ParamGroups(model), RunOf(model=model))


def library(model: torch.nn.Module) -> torch.optim.Optimizer:
    named = dict(model.named_parameters())
    inner = [p for name, p in named.items() if ".layers." in name and "norm" not in name]
    ends = [p for name, p in named.items() if "embed" in name or "lm_head" in name]
    norms = [p for name, p in named.items() if "norm" in name]
    projection = {"rank": 8, "update_proj_gap": 3, "scale": 0.5, "projection_type": "std"}
    groups = [
        {"params": inner, "weight_decay": 0.2, **projection},
        {"params": ends, "weight_decay": 0.2},
        {"params": norms, "weight_decay": 0.0},
    ]
    return Library(groups, lr=5e-3, betas=(0.8, 0.95), eps=1e-7)


def stepped(model: torch.nn.Module, optimizer: torch.optim.Optimizer, *seeds: int) -> None:
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


# ── the optimizer ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_trains_exactly_as_the_library_does() -> None:
    ours = losses(optimizer_of)

    assert ours == losses(library)
    assert ours != losses(lambda model: optimizer_of(model, PLUGIN.model_copy(update={"update_every": 100})))


def test_an_update_lies_in_the_directions_of_the_gradient_and_these_change_when_they_should() -> None:
    model = tiny_llama()
    matrix = model.model.layers[0].mlp.up_proj.weight  # (64, 32)
    plain = PLUGIN.model_copy(update={"weight_decay": 0.0})
    optimizer = optimizer_of(model, plain)
    seen = []
    for seed in range(4):
        before = matrix.detach().clone()
        stepped(model, optimizer, seed)
        directions = optimizer.state[matrix]["directions"]
        moved = matrix.detach() - before
        assert torch.allclose(moved @ directions.T @ directions, moved, atol=1e-6)
        assert torch.allclose(directions @ directions.T, torch.eye(8), atol=1e-5)
        seen.append(directions)

    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])
    assert torch.equal(seen[2], seen[3])


def test_its_state_is_tensors_in_the_low_rank_and_the_rest_has_adamws() -> None:
    model = tiny_llama()
    optimizer = optimizer_of(model)
    stepped(model, optimizer, 0)

    def shapes(parameter: torch.Tensor) -> dict[str, tuple[int, ...]]:
        return {key: tuple(value.shape) for key, value in optimizer.state[parameter].items()}

    layer = model.model.layers[0]
    assert shapes(layer.mlp.up_proj.weight) == {"exp_avg": (64, 8), "exp_avg_sq": (64, 8), "directions": (8, 32)}
    assert shapes(layer.mlp.down_proj.weight) == {"exp_avg": (8, 64), "exp_avg_sq": (8, 64), "directions": (32, 8)}
    for parameter in (model.lm_head.weight, model.model.embed_tokens.weight, layer.input_layernorm.weight):
        assert shapes(parameter) == dict.fromkeys(("exp_avg", "exp_avg_sq"), tuple(parameter.shape))


def test_a_matrix_with_a_side_no_longer_than_the_rank_has_adamw() -> None:
    model = tiny_llama(num_key_value_heads=1)  # keys and values: (8, 32)
    optimizer = optimizer_of(model)
    names = {id(p): name for name, p in model.named_parameters()}

    projected = {names[id(p)] for group in optimizer.param_groups if "rank" in group for p in group["params"]}

    assert projected == {
        f"model.layers.{n}.{part}_proj.weight"
        for n in (0, 1)
        for part in ("self_attn.q", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")
    }


def test_its_state_of_a_matrix_is_a_fifth_of_adamws() -> None:
    assert share_of_adamw(lambda model: optimizer_of(model, Galore())) <= 0.19


def test_it_goes_on_from_torchs_own_state_dict_to_the_bit() -> None:
    model = tiny_llama()
    optimizer = optimizer_of(model)
    stepped(model, optimizer, 1, 2, 3, 4)
    other = copy.deepcopy(model)
    restored = optimizer_of(other)

    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    stepped(model, optimizer, 5, 6)
    stepped(other, restored, 5, 6)

    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_model_without_large_matrices_in_its_layers_is_refused_with_the_way_out() -> None:
    with pytest.raises(IncompatibleError, match=r"both sides longer than 128; lower 'galore.rank', or .*adamw'"):
        optimizer_of(tiny_llama(), Galore())


def test_a_backend_that_holds_parameters_in_parts_is_refused() -> None:
    model = tiny_llama()
    optimizer = optimizer_of(model)
    flat = torch.nn.Parameter(torch.cat([p.detach().flatten() for p in optimizer.param_groups[0]["params"]]))
    optimizer.param_groups[0]["params"] = [flat]

    with pytest.raises(IncompatibleError, match=r"'galore' updates whole parameters.*'--plugin adamw'"):
        optimizer.step()


# ── in a run ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_planner_sees_the_state(make_run: Callable[..., Run], tmp_path: Path) -> None:
    text = tmp_path / "rows.txt"
    text.write_text("\n\n".join(f"the {number} quick foxes jump over it" for number in range(40)))
    parts = (PLUGIN, Scratch(hidden_size=64, layers=2), Bpe(vocab_size=400), FP32())
    fields = {"data": str(text), "steps": 2, "batch_size": 2, "seq_length": 24, "eval_share": 0}

    found = plan(make_run(*parts, **fields)).peaks["optimizer"]
    run = make_run(*parts, **fields)
    run.output.mkdir()
    run.build()
    run.train_step(next(iter(run.batches())))

    held = sum(v.nbytes for s in run.optimizer.state.values() for v in s.values())
    assert found["optimizer state"] == held


def test_updates_within_the_backward_pass_are_refused(make_run: Callable[..., Run], tmp_path: Path) -> None:
    from hfx_plugins.memory.optimizer_in_backward import OptimizerInBackward

    text = tmp_path / "rows.txt"
    text.write_text("\n\n".join(f"the {number} quick foxes jump over it" for number in range(40)))
    run = make_run(
        PLUGIN, OptimizerInBackward(), Scratch(hidden_size=64, layers=2), Bpe(vocab_size=400), FP32(), data=str(text),
        steps=2, batch_size=2, micro_batch_size=2, seq_length=24, eval_share=0, max_grad_norm=None,
    )  # fmt: skip
    run.output.mkdir()
    run.build()

    with pytest.raises(IncompatibleError, match=r"'GaLore' keeps 'step' for all parameters together"):
        run.train_step(next(iter(run.batches())))


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)

    found = [p.message for p in problems(resolve(mapping={"data": "rows.txt", "plugins": {"galore": {}}}))]

    assert found == ["'galore' needs the package 'pytorch-optimizer'; run: pip install 'hfx[galore]'"]


@pytest.mark.parametrize(
    "option", [{"lr": 0}, {"rank": 0}, {"update_every": 0}, {"scale": 0}, {"beta1": 1}, {"beta2": 1}, {"eps": 0}]
)
def test_an_option_out_of_range_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Galore(**option)
