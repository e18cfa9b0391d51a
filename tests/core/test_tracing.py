"""What plugins do to modules works on tensors without content, too."""

from __future__ import annotations

import copy

import torch
from torch import nn

from hfx.tracing import Tracer


def test_modules_are_cast_and_tied_parameters_stay_one() -> None:
    with Tracer().tracing():
        first, second = nn.Linear(4, 4), nn.Linear(4, 4)
        second.weight = first.weight
        first.register_buffer("kept", torch.zeros(3))
        both = nn.Sequential(first, second)
        assert both.to("cpu") is both
        assert both[0].weight is both[1].weight
        before = both[0].weight
        both.to(torch.bfloat16)
        assert both[0].weight is both[1].weight is not before
        assert {p.dtype for p in both.parameters()} == {both[0].kept.dtype} == {torch.bfloat16}
        assert sum(p.numel() for p in both.parameters()) == 16 + 8
        assert all(p.requires_grad and p.is_leaf for p in both.parameters())


def test_modules_are_copied_with_their_shapes() -> None:
    with Tracer().tracing():
        norm = nn.LayerNorm(8).requires_grad_(False)
        twin = copy.deepcopy(norm)
        assert twin.weight is not norm.weight
        assert [p.numel() for p in twin.parameters()] == [8, 8]
        assert not any(p.requires_grad for p in twin.parameters())
        assert twin(torch.zeros(2, 8)).shape == (2, 8)


def test_afterwards_modules_are_torchs_own_again() -> None:
    before = nn.Module._apply
    with Tracer().tracing():
        assert nn.Module._apply is not before
    assert nn.Module._apply is before
    real = nn.Linear(2, 2)
    assert torch.equal(copy.deepcopy(real).weight, real.weight)
    assert real.to(torch.bfloat16).weight.dtype is torch.bfloat16
