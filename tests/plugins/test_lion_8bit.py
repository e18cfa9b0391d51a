from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from bitsandbytes.optim import Lion8bit as Library
from lion_pytorch import Lion as FullLion
from pydantic import ValidationError

from hfx import ParamGroups
from hfx.api import problems
from hfx.errors import IncompatibleError
from hfx.resolve import resolve
from hfx_plugins.optimizers.lion_8bit import Lion8bit
from tiny_models import TinyRun, decayed, losses, share_of_adamw, tiny_llama

ALL = Lion8bit(lr=1e-3, beta1=0.85, beta2=0.98, weight_decay=0.4, quantize_embeddings=True, min_8bit_size=256)
"""Every matrix of a tiny model has 8 bits."""


@dataclass(frozen=True)
class RunOf(TinyRun):
    """A run that has built its model."""

    model: Any = None


def optimizer_of(model: torch.nn.Module, plugin: Lion8bit = ALL) -> torch.optim.Optimizer:
    return plugin.hfx_optimizer(ParamGroups(model), RunOf(model=model))


def test_it_trains_exactly_as_the_library_does() -> None:
    ours = losses(optimizer_of)
    theirs = losses(lambda model: Library(decayed(model, 0.4), lr=1e-3, betas=(0.85, 0.98), min_8bit_size=256))

    assert ours == theirs
    assert ours != losses(lambda model: optimizer_of(model, ALL.model_copy(update={"min_8bit_size": 10_000})))


def test_it_stays_near_lion() -> None:
    full = losses(lambda model: FullLion(decayed(model, 0.4), lr=1e-3, betas=(0.85, 0.98)))

    assert losses(optimizer_of) == pytest.approx(full, abs=0.02)


def test_matrices_have_8_bits_and_embeddings_and_norms_32() -> None:
    model = tiny_llama(hidden_size=64, intermediate_size=128)
    optimizer = optimizer_of(model, Lion8bit())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()

    precise = {n for n, p in model.named_parameters() if optimizer.state[p]["state1"].dtype == torch.float32}
    assert precise == {n for n, _ in model.named_parameters() if "norm" in n or "embed" in n}


def test_its_state_of_a_matrix_is_an_eighth_of_adamws() -> None:
    assert share_of_adamw(lambda model: optimizer_of(model, Lion8bit())) <= 0.13


def test_a_backend_that_holds_parameters_in_parts_is_refused() -> None:
    model = tiny_llama()
    model.lm_head.weight.ds_shape = model.lm_head.weight.shape  # what ZeRO-3 leaves

    with pytest.raises(IncompatibleError, match=r"'lion_8bit' updates whole parameters.*'--plugin adamw'"):
        optimizer_of(model)


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)

    found = [p.message for p in problems(resolve(mapping={"data": "rows.txt", "plugins": {"lion_8bit": {}}}))]

    assert found == ["'lion_8bit' needs the package 'bitsandbytes'; run: pip install 'hfx[bitsandbytes]'"]


@pytest.mark.parametrize(
    "option", [{"lr": 0}, {"beta1": 1}, {"beta2": -0.1}, {"weight_decay": -1}, {"min_8bit_size": 0}]
)
def test_an_option_out_of_range_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Lion8bit(**option)
