"""The loss of the next token: the same for every architecture, and paid for where a label is."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hfx.token_loss import causal_loss, install_loss

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
         "intermediate_size": 16, "head_dim": 8}  # fmt: skip
ARCHITECTURES = {
    "llama": SIZES,
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2},
    "gpt_neox": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    "gemma2": {**SIZES, "final_logit_softcapping": 0.05},
    "cohere": {**SIZES, "logit_scale": 0.3},
    "granite": {**SIZES, "logits_scaling": 4.0},
    "phi": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    "bert": {**SIZES, "is_decoder": True},
}  # fmt: skip


def build(architecture: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        architecture, vocab_size=43, pad_token_id=0, bos_token_id=1, eos_token_id=2, **ARCHITECTURES[architecture]
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    install_loss(model)
    return model


def batch() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 43, (3, 9), generator=generator)
    labels = ids.clone()
    labels[0, :5] = -100
    labels[1, 6:] = -100
    labels[2] = -100
    return {"input_ids": ids}, labels


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loss_and_its_gradients_are_those_of_all_logits(architecture: str) -> None:
    model = build(architecture)
    inputs, labels = batch()
    loss = causal_loss(model, inputs, labels)
    found = torch.autograd.grad(loss, [*model.parameters()], allow_unused=True)
    logits = model(**inputs, use_cache=False).logits
    targets = labels[:, 1:].reshape(-1)
    plain = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 43), targets, reduction="sum")
    expected = torch.autograd.grad(plain, [*model.parameters()], allow_unused=True)
    assert loss.shape == ()
    assert torch.allclose(loss, plain, rtol=1e-5)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.allclose(ours, theirs, atol=1e-5)


def test_the_head_sees_the_labelled_positions_alone_and_afterwards_all() -> None:
    model = build("llama")
    inputs, labels = batch()
    seen: list[torch.Size] = []
    model.lm_head.register_forward_hook(lambda _, args, output: seen.append(output.shape))
    causal_loss(model, inputs, labels)
    assert seen == [torch.Size([1, int((labels[:, 1:] != -100).sum()), 43])]
    assert model(**inputs).logits.shape == (3, 9, 43)


def test_a_batch_without_any_label_has_a_loss_of_zero_that_can_be_followed_back() -> None:
    model = build("llama")
    inputs, labels = batch()
    loss = causal_loss(model, inputs, torch.full_like(labels, -100))
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())
