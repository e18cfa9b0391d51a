from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from hfx import ParamGroups
from hfx_plugins.optimizers.adamw import AdamW
from tiny_models import TinyRun, decayed, losses, tiny_llama


def test_it_trains_exactly_as_torch_does() -> None:
    plugin = AdamW(lr=3e-3, beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=0.3)

    ours = losses(lambda model: plugin.hfx_optimizer(ParamGroups(model), TinyRun()))
    theirs = losses(
        lambda model: torch.optim.AdamW(decayed(model, 0.3), lr=3e-3, betas=(0.8, 0.95), eps=1e-6, fused=True)
    )

    assert ours == theirs
    assert ours[-1] != ours[0]


def test_only_matrices_decay() -> None:
    model = tiny_llama()
    optimizer = AdamW(weight_decay=0.5).hfx_optimizer(ParamGroups(model), TinyRun())

    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}

    assert {name: decay[id(p)] for name, p in model.named_parameters()} == {
        name: 0.0 if "norm" in name else 0.5 for name, _ in model.named_parameters()
    }


def test_frozen_parameters_are_left_out() -> None:
    model = tiny_llama()
    model.model.embed_tokens.weight.requires_grad_(False)

    optimizer = AdamW().hfx_optimizer(ParamGroups(model), TinyRun())

    taken = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert id(model.model.embed_tokens.weight) not in taken
    assert len(taken) == len(list(model.parameters())) - 1


@pytest.mark.parametrize(
    ("fused", "device", "expected"),
    [(None, "cpu", True), (None, "cuda", True), (None, "mps", None), (True, "mps", True), (False, "cpu", None)],
)
def test_the_fused_kernel_is_used_where_it_is_known_to_be_faster_or_asked_for(
    fused: bool | None, device: str, expected: bool | None
) -> None:
    run = TinyRun(device=torch.device(device))

    optimizer = AdamW(fused=fused).hfx_optimizer(ParamGroups(tiny_llama()), run)

    assert optimizer.param_groups[0]["fused"] is expected


@pytest.mark.parametrize("option", [{"lr": 0}, {"beta1": 1}, {"beta2": -0.1}, {"eps": 0}, {"weight_decay": -1}])
def test_an_option_out_of_range_is_refused(option: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        AdamW(**option)
