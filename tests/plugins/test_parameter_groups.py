from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, T5Config, T5ForConditionalGeneration

from hfx import ParamGroups
from hfx.errors import ConfigError, IncompatibleError
from hfx.testing.bench import Bench
from hfx.testing.examples import differing, weights
from hfx.testing.training import continues_to_the_bit
from hfx_plugins.optimizers.lion import Lion
from hfx_plugins.optimizers.muon import Muon
from hfx_plugins.optimizers.parameter_groups import ParameterGroups
from hfx_plugins.optimizers.parameter_groups_impl import refine
from tiny_models import tiny_llama


def bench(**options: Any) -> Bench:
    return Bench.of(ParameterGroups, options, {}, None)


def refined(model: torch.nn.Module, optimizer: torch.optim.Optimizer | None = None, **options: Any) -> dict[str, Any]:
    """Return learning rate and decay of each parameter by name, from an optimizer of 1.0 and 0.1."""
    params = ParamGroups(model)
    optimizer = optimizer or torch.optim.AdamW(params.groups(weight_decay=0.1), lr=1.0)
    refine(optimizer, params, model, ParameterGroups(**options))
    names = {id(p): name for name, p in params}
    found = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert len(found) == len(params) == sum(len(group["params"]) for group in optimizer.param_groups)
    return found


def test_each_layer_learns_less_than_the_one_above_it_and_embeddings_least() -> None:
    found = refined(tiny_llama(), layer_decay=0.5)

    assert found["lm_head.weight"][0] == found["model.norm.weight"][0] == 1.0
    assert found["model.layers.1.mlp.up_proj.weight"][0] == 0.5
    assert found["model.layers.0.input_layernorm.weight"][0] == 0.25
    assert found["model.embed_tokens.weight"][0] == 0.125
    assert found["model.layers.0.input_layernorm.weight"][1] == 0.0
    assert found["model.embed_tokens.weight"][1] == 0.1


def test_everything_in_an_encoders_embeddings_is_below_its_first_layer() -> None:
    config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
    found = refined(BertForSequenceClassification(config), layer_decay=0.5)

    below = {name for name, (lr, _) in found.items() if lr == 0.125}
    assert below == {name for name in found if ".embeddings." in name}
    assert found["classifier.weight"][0] == 1.0


def test_the_last_pattern_that_fits_counts_and_factors_multiply_with_the_depths() -> None:
    found = refined(
        tiny_llama(),
        lr={"*_proj*": 3.0, "model.layers.1": 10.0},
        weight_decay={"lm_head": 0.5, "*norm*": 0.2},
        layer_decay=0.5,
    )

    assert found["model.layers.1.mlp.up_proj.weight"] == (5.0, 0.1)
    assert found["model.layers.0.mlp.up_proj.weight"] == (0.75, 0.1)
    assert found["lm_head.weight"] == (1.0, 0.5)
    assert found["model.norm.weight"] == (1.0, 0.2)


def test_a_factor_of_zero_leaves_parameters_as_they_are_in_a_run() -> None:
    with bench(lr={"model.embed_tokens": 0.0}, weight_decay={"model.embed_tokens": 0.3}).run(steps=2) as run:
        run.build()
        before = weights(run.model)
        run.hooks.run(run=run)
        unchanged = set(before) - set(differing(before, weights(run.model)))

    assert unchanged == {name for name in before if "embed_tokens" in name}


def test_every_group_follows_the_schedule_from_its_own_rate() -> None:
    with bench(layer_decay=0.5).run(steps=4) as run:
        run.build()
        first = [group["lr"] for group in run.optimizer.param_groups]
        run.hooks.run(run=run)
        last = [group["lr"] for group in run.optimizer.param_groups]

    assert len(set(first)) > 2
    ratios = [after / before for before, after in zip(first, last, strict=True)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))


def test_the_rate_that_is_logged_is_the_highest() -> None:
    with bench(lr={"*embed*": 0.1, "*_proj*": 0.5}).run(steps=1) as run:
        run.build()
        highest = max(group["lr"] for group in run.optimizer.param_groups)
        run.hooks.run(run=run)

    assert run.last_metrics["lr"] == highest


def test_a_resumed_run_continues_to_the_bit() -> None:
    continues_to_the_bit(bench(layer_decay=0.7, weight_decay={"lm_head": 0.5}))


def test_a_group_of_muon_and_adamw_stays_with_its_optimizer() -> None:
    model = tiny_llama()
    params = ParamGroups(model)
    run: Any = type("RunOf", (), {"model": model, "device": torch.device("cpu")})()
    optimizer = Muon(lr=0.02, adamw_lr=1e-3).hfx_optimizer(params, run)
    refine(optimizer, params, model, ParameterGroups(lr={"model.layers.0": 0.0, "model.embed_tokens": 0.0}))
    before = weights(model)
    ids = model.dummy_inputs["input_ids"]
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()

    moved = set(differing(before, weights(model)))
    assert "lm_head.weight" in moved
    assert "model.layers.1.mlp.up_proj.weight" in moved
    assert not {name for name in moved if ".layers.0." in name or "embed_tokens" in name}


def test_an_option_that_the_optimizer_lacks_is_refused_and_not_ignored() -> None:
    params = ParamGroups(tiny_llama())
    optimizer = Lion().hfx_optimizer(params)

    with pytest.raises(IncompatibleError, match=r"'Lion' has no option 'eps' for 'model.embed_tokens.weight'"):
        params.refine(optimizer, lambda *_: {"eps": 1e-3})


def test_a_pattern_that_fits_nothing_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"'parameter_groups.lr'.*'lm_hed';.*did you mean 'lm_head'"):
        refined(tiny_llama(), lr={"lm_hed": 2.0})


def test_a_model_with_two_stacks_of_layers_has_no_depth() -> None:
    model = T5ForConditionalGeneration(T5Config(vocab_size=50, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2))

    with pytest.raises(IncompatibleError, match="several lists of layers"):
        refined(model, layer_decay=0.9)


def test_tied_parameters_are_one_under_any_of_their_names() -> None:
    for name in ("lm_head", "model.embed_tokens"):
        found = refined(tiny_llama(tie_word_embeddings=True), lr={name: 3.0})
        assert {each for each, (lr, _) in found.items() if lr == 3.0} == {"model.embed_tokens.weight"}


def test_options_that_change_nothing_are_reported() -> None:
    assert [problem.fatal for problem in ParameterGroups().hfx_check()] == [True]
    assert not list(ParameterGroups(layer_decay=0.9).hfx_check())
