from __future__ import annotations

import torch

from hfx_plugins.models.scratch import Scratch
from hfx_plugins.precision.bf16 import BF16
from tiny_models import Numbers, TinyRun

SMALL = Scratch(hidden_size=32, layers=1)


def test_products_are_bf16_over_fp32_weights() -> None:
    precision = BF16().hfx_precision(TinyRun())
    model = SMALL.hfx_model(TinyRun(precision=Numbers(precision.dtype)))

    with precision.autocast():
        logits = model(input_ids=torch.ones(1, 4, dtype=torch.long)).logits
    logits.float().sum().backward()

    assert logits.dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters()} == {p.grad.dtype for p in model.parameters()} == {torch.float32}
    assert precision.scaler is None


def test_pure_means_that_the_weights_are_bf16_too() -> None:
    precision = BF16(pure=True).hfx_precision(TinyRun())
    model = SMALL.hfx_model(TinyRun(precision=Numbers(precision.dtype)))

    with precision.autocast():
        logits = model(input_ids=torch.ones(1, 4, dtype=torch.long)).logits

    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert logits.dtype == torch.bfloat16


def test_it_says_where_bf16_is_only_emulated() -> None:
    run = TinyRun(device=torch.device("meta"))

    assert "emulated" in BF16().hfx_precision(run).why
    assert "emulated" in BF16(pure=True).hfx_precision(run).why
