from __future__ import annotations

from typing import Literal

import pytest
import torch
import transformers
from pydantic import ValidationError

from hfx import ParamGroups
from hfx_plugins.optimizers.adafactor import Adafactor
from tiny_models import decayed, losses, share_of_adamw, tiny_llama


def test_it_trains_exactly_as_torch_does() -> None:
    plugin = Adafactor(lr=2e-2, beta2_decay=-0.7, eps1=1e-12, eps2=1e-2, d=1.5, weight_decay=0.1)

    ours = losses(lambda model: plugin.hfx_optimizer(ParamGroups(model)))
    theirs = losses(
        lambda model: torch.optim.Adafactor(decayed(model, 0.1), lr=2e-2, beta2_decay=-0.7, eps=(1e-12, 1e-2), d=1.5)
    )

    assert ours == theirs
    assert ours[-1] != ours[0]


def test_its_variant_trains_exactly_as_transformers_does() -> None:
    plugin = Adafactor(lr=2e-2, beta2_decay=-0.7, d=1.5, weight_decay=0.1, variant="transformers")

    ours = losses(lambda model: plugin.hfx_optimizer(ParamGroups(model)))
    theirs = losses(
        lambda model: transformers.Adafactor(
            decayed(model, 0.1), lr=2e-2, decay_rate=-0.7, clip_threshold=1.5, relative_step=False
        )
    )

    assert ours == theirs
    assert ours != losses(lambda model: Adafactor(lr=2e-2, beta2_decay=-0.7, d=1.5).hfx_optimizer(ParamGroups(model)))


def test_a_matrix_has_factors_instead_of_moments() -> None:
    model = tiny_llama()
    optimizer = Adafactor().hfx_optimizer(ParamGroups(model))
    ids = model.dummy_inputs["input_ids"]
    model(input_ids=ids, labels=ids).loss.backward()

    optimizer.step()

    matrix = model.model.layers[0].mlp.up_proj.weight
    assert sum(value.numel() for value in optimizer.state[matrix].values()) < matrix.numel() / 10


@pytest.mark.parametrize("variant", ["torch", "transformers"])
def test_its_state_is_a_twentieth_of_adamws_at_most(variant: Literal["torch", "transformers"]) -> None:
    assert share_of_adamw(lambda model: Adafactor(variant=variant).hfx_optimizer(ParamGroups(model))) <= 0.05


@pytest.mark.parametrize("option", [{"lr": 0}, {"beta2_decay": 0.1}, {"d": 0.5}, {"variant": "fairseq"}])
def test_an_option_out_of_range_is_refused(option: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Adafactor(**option)
