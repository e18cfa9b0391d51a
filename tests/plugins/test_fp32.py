from __future__ import annotations

import torch

from hfx_plugins.precision.fp32 import FP32
from tiny_models import TinyRun, tiny_llama


def test_weights_and_products_are_fp32() -> None:
    precision = FP32().hfx_precision(TinyRun())
    model = precision.convert(tiny_llama())

    with precision.autocast():
        logits = model(input_ids=torch.ones(1, 4, dtype=torch.long)).logits

    assert (precision.dtype, logits.dtype) == (torch.float32, torch.float32)
    assert precision.scaler is None


def test_it_computes_what_no_precision_at_all_computes() -> None:
    model, ids = tiny_llama().eval(), torch.arange(8).view(1, 8)

    with FP32().hfx_precision(TinyRun()).autocast():
        inside = model(input_ids=ids).logits

    assert torch.equal(inside, model(input_ids=ids).logits)
