from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers.modeling_layers import GradientCheckpointingLayer

from held_bytes import Held
from hfx.errors import IncompatibleError
from hfx_plugins.memory.gradient_checkpointing import GradientCheckpointing
from hfx_plugins.models.scratch import Scratch
from tiny_models import VOCABULARY, TinyRun, tiny_llama


def _wrapped(plugin: GradientCheckpointing, model: torch.nn.Module) -> torch.nn.Module:
    """Send the model through the wrapper, as pluggy does."""
    hook = plugin.hfx_model()
    next(hook)
    with pytest.raises(StopIteration) as end:
        hook.send(model)
    return end.value.value


def _gradients(model: torch.nn.Module) -> list[torch.Tensor]:
    model.train()
    ids = torch.arange(16).view(2, 8)
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return [p.grad for p in model.parameters()]


def _saved_elements(make: Callable[[], torch.nn.Module]) -> int:
    """Return how many elements a forward pass keeps for the backward pass."""
    kept = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    model = make().train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=torch.arange(32).view(1, 32), use_cache=False)
    return kept


def test_gradients_are_the_same_to_the_bit() -> None:
    plain = _gradients(tiny_llama())

    checkpointed = _gradients(_wrapped(GradientCheckpointing(), tiny_llama()))

    assert all(torch.equal(ours, theirs) for ours, theirs in zip(checkpointed, plain, strict=True))


def test_fewer_activations_are_kept_and_more_with_every_second_layer() -> None:
    def with_every(every: int) -> Callable[[], torch.nn.Module]:
        return lambda: _wrapped(GradientCheckpointing(every=every), tiny_llama(num_hidden_layers=4))

    all_layers, half, none = (
        _saved_elements(with_every(1)),
        _saved_elements(with_every(2)),
        _saved_elements(lambda: tiny_llama(num_hidden_layers=4)),
    )

    assert all_layers < half < none


def test_every_third_layer_is_counted_from_the_first() -> None:
    model = _wrapped(GradientCheckpointing(every=3), tiny_llama(num_hidden_layers=5))

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]

    assert [layer.gradient_checkpointing for layer in layers] == [True, False, False, True, False]


LAYERS = 4


def _with(**options: Any) -> torch.nn.Module:
    return _wrapped(GradientCheckpointing(**options), tiny_llama(num_hidden_layers=LAYERS))


def _operations(model: torch.nn.Module, bf16: bool = False) -> tuple[int, int]:
    """Return the operations of a forward pass, and those of it and its backward pass."""
    ids = torch.arange(32).view(2, 16)
    with FlopCounterMode(display=False) as counted:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model.train()(input_ids=ids, labels=ids, use_cache=False).loss
        forward = counted.get_total_flops()
        loss.backward()
    return forward, counted.get_total_flops()


@pytest.mark.parametrize("bf16", [False, True])
def test_layers_are_computed_twice_and_what_is_kept_is_not(bf16: bool) -> None:
    forward, plain = _operations(tiny_llama(num_hidden_layers=LAYERS), bf16)
    head = 2 * 32 * 32 * VOCABULARY

    assert _operations(_with(), bf16)[1] > plain + 0.7 * (forward - head)
    assert _operations(_with(every=2), bf16)[1] < _operations(_with(), bf16)[1]
    assert _operations(_with(keep="matmuls"), bf16) == (forward, plain)


def _held(model: torch.nn.Module) -> int:
    ids = torch.arange(512).view(16, 32) % VOCABULARY
    with Held() as seen:
        loss = model.train()(input_ids=ids, labels=ids, use_cache=False).loss
    held = seen.bytes()
    loss.backward()
    return held


def test_with_matmuls_less_is_held_than_without_and_more_than_with_inputs_alone() -> None:
    plain = _held(tiny_llama(num_hidden_layers=LAYERS))

    assert _held(_with()) < 0.9 * _held(_with(keep="matmuls")) < 0.8 * plain


@pytest.mark.parametrize("every", [1, 2])
def test_with_matmuls_the_gradients_are_the_same_to_the_bit(every: int) -> None:
    torch.manual_seed(3)
    plain = _gradients(tiny_llama(attention_dropout=0.1))

    torch.manual_seed(3)
    kept = _gradients(_wrapped(GradientCheckpointing(every=every, keep="matmuls"), tiny_llama(attention_dropout=0.1)))

    assert all(torch.equal(ours, theirs) for ours, theirs in zip(kept, plain, strict=True))


def test_a_model_that_cannot_is_refused_with_what_to_type() -> None:
    model = tiny_llama()
    model.supports_gradient_checkpointing = False

    with pytest.raises(IncompatibleError, match="no:gradient_checkpointing"):
        _wrapped(GradientCheckpointing(), model)


@pytest.mark.parametrize("keep", ["none", "matmuls"])
@pytest.mark.parametrize("architecture", ["gpt2", "bert", "qwen3"])
def test_it_works_on_other_architectures(architecture: str, keep: Any) -> None:
    scratch = Scratch(architecture=architecture, hidden_size=32, layers=2)

    model = _wrapped(GradientCheckpointing(keep=keep), scratch.hfx_model(TinyRun()))

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    assert layers
    assert all(layer.gradient_checkpointing for layer in layers)
    assert all(gradient is not None for gradient in _gradients(model))
