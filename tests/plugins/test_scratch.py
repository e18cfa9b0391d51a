from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from hfx.errors import ConfigError, ModelError
from hfx_plugins.models.scratch import Scratch
from tiny_models import Fields, Goal, Numbers, TinyRun, Tokens, labels_of

SIZES: dict[str, Any] = {"hidden_size": 32, "layers": 2, "heads": 4}
IDS = torch.arange(3, 35).view(1, 32)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3", "opt", "gpt_neox", "mamba"])
def test_general_sizes_reach_the_keys_of_each_architecture(architecture: str) -> None:
    sizes = {key: value for key, value in SIZES.items() if architecture != "mamba" or key != "heads"}

    model = Scratch(architecture=architecture, **sizes).hfx_model(TinyRun())

    assert model(input_ids=IDS, use_cache=False).logits.shape == (1, 32, 64)
    assert model.get_input_embeddings().weight.shape == (64, 32)
    assert model.config.num_hidden_layers == 2
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


@pytest.mark.parametrize("architecture", ["bert", "roberta", "llama", "modernbert"])
def test_a_classifier_has_the_tasks_labels(architecture: str) -> None:
    model = Scratch(architecture=architecture, **SIZES).hfx_model(TinyRun(task=labels_of("ham", "spam", "eggs")))

    assert model(input_ids=IDS).logits.shape == (1, 3)
    assert model.config.label2id == {"ham": 0, "spam": 1, "eggs": 2}


def test_an_encoder_as_a_causal_model_cannot_look_ahead() -> None:
    model = Scratch(architecture="bert", **SIZES).hfx_model(TinyRun()).eval()
    other = IDS.clone()
    other[0, -1] = 5

    first, second = model(input_ids=IDS).logits, model(input_ids=other).logits

    assert torch.equal(first[0, :-1], second[0, :-1])
    assert not torch.equal(first[0, -1], second[0, -1])


def test_the_seed_decides_the_weights_and_nothing_else_does() -> None:
    def weights(seed: int) -> torch.Tensor:
        return Scratch(**SIZES).hfx_model(TinyRun(config=Fields(seed=seed))).get_input_embeddings().weight

    first = weights(1)
    torch.randn(7)

    assert torch.equal(weights(1), first)
    assert not torch.equal(weights(2), first)


def test_building_leaves_the_random_state_of_the_process_alone() -> None:
    before = torch.get_rng_state()

    Scratch(**SIZES).hfx_model(TinyRun())

    assert torch.equal(torch.get_rng_state(), before)


def test_the_weights_have_the_precisions_dtype() -> None:
    model = Scratch(**SIZES).hfx_model(TinyRun(precision=Numbers(torch.bfloat16)))

    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_options_and_raw_keys_are_in_the_config() -> None:
    scratch = Scratch(
        **SIZES, kv_heads=2, intermediate_size=48, tie_embeddings=False, max_positions=99, extra={"rms_norm_eps": 0.5}
    )

    config = scratch.hfx_model(TinyRun()).config

    assert (config.num_key_value_heads, config.intermediate_size, config.max_position_embeddings) == (2, 48, 99)
    assert (config.tie_word_embeddings, config.rms_norm_eps, config.vocab_size) == (False, 0.5, 64)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 0)


def test_the_feed_forward_width_is_eight_thirds_rounded_up_to_64() -> None:
    assert Scratch(hidden_size=256).hfx_model(TinyRun()).config.intermediate_size == 704


def test_an_end_token_that_also_pads_is_still_learned() -> None:
    run = TinyRun(tokenizer=Tokens(bos_token_id=2, eos_token_id=2, pad_token_id=2))
    model = Scratch(**SIZES, tie_embeddings=False).hfx_model(run)

    model(input_ids=torch.tensor([[2, 5]]), use_cache=False).logits.sum().backward()

    assert model.get_input_embeddings().weight.grad[2].abs().sum() > 0
    assert model.config.pad_token_id == 2


def test_what_it_builds_loads_with_plain_transformers(tmp_path: Path) -> None:
    model = Scratch(**SIZES).hfx_model(TinyRun())
    model.save_pretrained(tmp_path)

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)

    assert torch.equal(loaded(input_ids=IDS).logits, model.eval()(input_ids=IDS).logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "lama"}, "did you mean 'llama'"),
        ({"architecture": "clip"}, "another 'scratch.architecture'"),
        ({"architecture": "t5"}, "no AutoModelForCausalLM"),
        ({"architecture": "mamba", "heads": 8}, "scratch.heads"),
        ({"architecture": "gpt2", "kv_heads": 2}, "scratch.kv_heads"),
        ({"heads": 3}, "'scratch.heads' 3 does not divide"),
        ({"kv_heads": 3}, "'scratch.kv_heads' 3 does not divide"),
        ({"extra": {"rope_tetha": 1.0}}, "did you mean 'rope_theta'"),
        ({"extra": {"initializer_range": "wide"}}, "refuses these sizes"),
    ],
)
def test_options_that_cannot_be_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Scratch(**options).hfx_model(TinyRun())

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "mamba", "opt"])
def test_options_that_mean_nothing_to_an_architecture_may_all_be_written_down_as_a_runs_file_does(
    architecture: str,
) -> None:
    given = Scratch(architecture=architecture, hidden_size=64, layers=1)
    assert Scratch(**given.model_dump()).hfx_model(TinyRun()).config.vocab_size == 64


def test_fewer_positions_than_the_sequences_are_long_are_refused_with_both_numbers() -> None:
    with pytest.raises(ModelError, match=r"32 .* 16 "):
        Scratch(**SIZES, max_positions=16).hfx_model(TinyRun())


def test_a_task_without_a_model_class_of_transformers_is_no_silent_success() -> None:
    with pytest.raises(AttributeError, match="AutoModelForNothing"):
        Scratch(**SIZES).hfx_model(TinyRun(task=Goal("AutoModelForNothing")))
