from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from hfx import ParamGroups
from hfx.errors import IncompatibleError
from hfx_plugins.optimizers.muon import Muon
from tiny_models import TinyRun, losses, tiny_llama

PLUGIN = Muon(lr=0.03, adamw_lr=2e-3, momentum=0.9, ns_steps=4, weight_decay=0.2, beta1=0.8, beta2=0.9)


@dataclass(frozen=True)
class RunOf(TinyRun):
    """A run that has built its model."""

    model: Any = None


def optimizer_of(model: torch.nn.Module, plugin: Muon = PLUGIN) -> torch.optim.Optimizer:
    return plugin.hfx_optimizer(ParamGroups(model), RunOf(model=model))


def names_of(model: torch.nn.Module) -> set[str]:
    """Return the names of what Muon updates."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = optimizer_of(model).param_groups
    return {names[id(p)] for group in groups if "ns_steps" in group for p in group["params"]}


class SideBySide(torch.optim.Optimizer):
    """Torch's two optimizers one after the other, with nothing shared: what one writes by hand."""

    def __init__(self, model: torch.nn.Module, nesterov: bool, adjust: str) -> None:
        named = dict(model.named_parameters())
        layers = [p for name, p in named.items() if ".layers." in name and "norm" not in name]
        ends = [p for name, p in named.items() if "embed" in name or "lm_head" in name]
        norms = [p for name, p in named.items() if "norm" in name]
        self.both = (
            torch.optim.Muon(
                layers, lr=0.03, momentum=0.9, nesterov=nesterov, ns_steps=4, weight_decay=0.2, adjust_lr_fn=adjust
            ),
            torch.optim.AdamW(
                [{"params": ends, "weight_decay": 0.2}, {"params": norms, "weight_decay": 0.0}],
                lr=2e-3, betas=(0.8, 0.9),
            ),
        )  # fmt: skip

    def step(self) -> None:
        for one in self.both:
            one.step()

    def zero_grad(self) -> None:
        for one in self.both:
            one.zero_grad()


@pytest.mark.parametrize(("nesterov", "adjust"), [(True, "original"), (False, "match_rms_adamw")])
def test_it_trains_exactly_as_torchs_two_side_by_side(nesterov: bool, adjust: str) -> None:
    plugin = PLUGIN.model_copy(update={"nesterov": nesterov, "adjust_lr": adjust})

    ours = losses(lambda model: optimizer_of(model, plugin))
    theirs = losses(lambda model: SideBySide(model, nesterov, adjust))

    assert ours == theirs
    assert ours[-1] != ours[0]


def test_matrices_inside_layers_are_muons_and_the_rest_adamws() -> None:
    model = tiny_llama(attention_bias=True)

    assert names_of(model) == {
        f"model.layers.{layer}.{part}.weight"
        for layer in (0, 1)
        for part in (
            *(f"self_attn.{kind}_proj" for kind in "qkvo"),
            *(f"mlp.{kind}_proj" for kind in ("gate", "up", "down")),
        )
    }


def test_an_embedding_is_adamws_wherever_it_is() -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=1, n_head=4))
    t5 = T5ForConditionalGeneration(
        T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, decoder_start_token_id=0)
    )

    assert {name.rpartition(".h.0.")[2] for name in names_of(gpt2)} == {
        "attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight",
    }  # fmt: skip
    assert not [name for name in names_of(t5) if "relative_attention_bias" in name or "shared" in name]
    assert [name for name in names_of(t5) if "decoder.block.0.layer.1.EncDecAttention.q" in name]


def test_each_has_its_own_rate_and_only_matrices_decay() -> None:
    groups = optimizer_of(tiny_llama()).param_groups

    assert [(g["lr"], g["weight_decay"], "ns_steps" in g) for g in groups] == [
        (0.03, 0.2, True),
        (2e-3, 0.2, False),
        (2e-3, 0.0, False),
    ]


def test_muon_keeps_one_tensor_a_matrix_in_a_state_that_both_share() -> None:
    model = tiny_llama()
    optimizer = optimizer_of(model)
    ids = model.dummy_inputs["input_ids"]
    model(input_ids=ids, labels=ids).loss.backward()

    optimizer.step()

    layers = model.model.layers[0]
    assert set(optimizer.state[layers.mlp.up_proj.weight]) == {"momentum_buffer"}
    assert set(optimizer.state[layers.input_layernorm.weight]) == {"step", "exp_avg", "exp_avg_sq"}
    assert len(optimizer.state) == len(list(model.parameters()))


def test_it_goes_on_from_torchs_own_state_dict_to_the_bit() -> None:
    def stepped(model: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()

    model = tiny_llama()
    optimizer = optimizer_of(model)
    stepped(model, optimizer, 1)
    other = copy.deepcopy(model)
    restored = optimizer_of(other)

    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for group in (*optimizer.param_groups, *restored.param_groups):
        group["lr"] /= 2
    stepped(model, optimizer, 2)
    stepped(other, restored, 2)

    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_what_is_frozen_is_left_out_and_layers_alone_will_do() -> None:
    model = tiny_llama()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("up_proj" in name)

    groups = optimizer_of(model).param_groups

    assert [len(group["params"]) for group in groups] == [2]


def test_a_model_without_matrices_in_its_layers_is_refused_with_the_way_out() -> None:
    model = tiny_llama()
    model.model.layers.requires_grad_(False)

    with pytest.raises(IncompatibleError, match=r"no trainable matrix inside the model's layers.*'--plugin adamw'"):
        optimizer_of(model)


@pytest.mark.parametrize(
    "option", [{"lr": 0}, {"adamw_lr": 0}, {"momentum": 1}, {"ns_steps": 0}, {"ns_steps": 100}, {"adjust_lr": "none"}]
)
def test_an_option_out_of_range_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Muon(**option)
