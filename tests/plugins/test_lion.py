from __future__ import annotations

import pytest
from lion_pytorch import Lion as LionOptimizer
from pydantic import ValidationError

from hfx import ParamGroups
from hfx_plugins.optimizers.lion import Lion
from tiny_models import decayed, losses, share_of_adamw, tiny_llama


def test_it_trains_exactly_as_the_library_does() -> None:
    plugin = Lion(lr=2e-3, beta1=0.85, beta2=0.98, weight_decay=0.4)

    ours = losses(lambda model: plugin.hfx_optimizer(ParamGroups(model)))
    theirs = losses(lambda model: LionOptimizer(decayed(model, 0.4), lr=2e-3, betas=(0.85, 0.98)))

    assert ours == theirs
    assert ours[-1] != ours[0]


def test_it_keeps_one_tensor_a_parameter() -> None:
    model = tiny_llama()
    optimizer = Lion().hfx_optimizer(ParamGroups(model))
    ids = model.dummy_inputs["input_ids"]
    model(input_ids=ids, labels=ids).loss.backward()

    optimizer.step()

    assert {key for state in optimizer.state.values() for key in state} == {"exp_avg"}


def test_its_state_is_half_of_adamws() -> None:
    assert share_of_adamw(lambda model: Lion().hfx_optimizer(ParamGroups(model))) <= 0.51


@pytest.mark.parametrize("option", [{"lr": 0}, {"beta1": 1.1}, {"beta2": -0.1}, {"weight_decay": -1}])
def test_an_option_out_of_range_is_refused(option: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Lion(**option)
