from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from hfx import ParamGroups
from hfx_plugins.optimizers.sgd import Sgd
from tiny_models import decayed, losses, tiny_llama


@pytest.mark.parametrize("nesterov", [False, True])
def test_it_trains_exactly_as_torch_does(nesterov: bool) -> None:
    plugin = Sgd(lr=0.2, momentum=0.8, nesterov=nesterov, weight_decay=0.01)

    ours = losses(lambda model: plugin.hfx_optimizer(ParamGroups(model)))
    theirs = losses(lambda model: torch.optim.SGD(decayed(model, 0.01), lr=0.2, momentum=0.8, nesterov=nesterov))

    assert ours == theirs
    assert ours[-1] != ours[0]


def test_nesterov_is_another_step() -> None:
    plain, nesterov = (
        losses(lambda model, plugin=plugin: plugin.hfx_optimizer(ParamGroups(model)))
        for plugin in (Sgd(lr=0.2), Sgd(lr=0.2, nesterov=True))
    )

    assert plain != nesterov


@pytest.mark.parametrize(("momentum", "kept"), [(0.9, {"momentum_buffer"}), (0.0, set())])
def test_it_keeps_one_tensor_a_parameter_or_none_without_momentum(momentum: float, kept: set[str]) -> None:
    model = tiny_llama()
    optimizer = Sgd(momentum=momentum).hfx_optimizer(ParamGroups(model))
    ids = model.dummy_inputs["input_ids"]
    model(input_ids=ids, labels=ids).loss.backward()

    optimizer.step()

    assert {key for state in optimizer.state.values() for key in state} == kept


@pytest.mark.parametrize("option", [{"lr": 0}, {"momentum": 1}, {"weight_decay": -1}])
def test_an_option_out_of_range_is_refused(option: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Sgd(**option)


def test_nesterov_without_momentum_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValidationError, match="'nesterov' needs a 'momentum' above 0"):
        Sgd(momentum=0, nesterov=True)
