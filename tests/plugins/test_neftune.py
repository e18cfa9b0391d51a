from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hfx import Run
from hfx.testing.bench import Bench
from hfx.testing.examples import differing, evaluating, loss_at, weights
from hfx.testing.training import continues_to_the_bit, trained
from hfx_plugins.batching.packing import Packing
from hfx_plugins.memory.chunked_loss import ChunkedLoss
from hfx_plugins.memory.gradient_checkpointing import GradientCheckpointing
from hfx_plugins.models.lora import Lora
from hfx_plugins.models.neftune import Neftune
from hfx_plugins.models.neftune_impl import install, lengths_of
from tiny_models import tiny_llama

HIDDEN = 32


def bench(config: dict[str, Any] | None = None, **options: Any) -> Bench:
    return Bench.of(Neftune, options, config or {}, None)


def noise(model: torch.nn.Module, **inputs: torch.Tensor) -> torch.Tensor:
    """Return what was added to the embeddings, `(batch, seq, hidden)`."""
    found: list[torch.Tensor] = []
    handle = model.get_input_embeddings().register_forward_hook(
        lambda module, ids, output: found.append(output - torch.nn.functional.embedding(ids[0], module.weight))
    )
    with torch.no_grad():
        model(**inputs, use_cache=False)
    handle.remove()
    return found[0]


def noisy(alpha: float) -> torch.nn.Module:
    model = tiny_llama().train()
    install(model, alpha)
    return model


def test_noise_is_uniform_up_to_alpha_over_the_root_of_length_times_width() -> None:
    added = noise(noisy(5.0), input_ids=torch.randint(3, 60, (64, 25)))
    limit = 5.0 / math.sqrt(25 * HIDDEN)
    assert 0.99 * limit < float(added.abs().max()) <= limit * (1 + 1e-4)
    assert abs(float(added.mean())) < 0.02 * limit
    assert float(added.std()) == pytest.approx(limit / math.sqrt(3), rel=0.02)


def test_an_examples_noise_follows_its_own_length_padded_or_packed() -> None:
    ids = torch.randint(3, 60, (2, 20))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    added = noise(noisy(5.0), input_ids=ids, attention_mask=mask).abs().amax((1, 2))
    assert float(added[1] / added[0]) == pytest.approx(2.0, rel=0.05)  # a quarter of the length

    positions = torch.cat([torch.arange(16), torch.arange(4)]).repeat(2, 1)
    added = noise(noisy(5.0), input_ids=ids, position_ids=positions)
    assert float(added[:, 16:].abs().max() / added[:, :16].abs().max()) == pytest.approx(2.0, rel=0.05)


@given(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=5), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_lengths_of_packed_examples_are_those_they_were_packed_with(packed: list[list[int]]) -> None:
    width = max(map(sum, packed))
    lines = [[*lengths, width - sum(lengths)] for lengths in packed]
    positions = torch.tensor([[at for length in line for at in range(length)] for line in lines])
    expected = [[length for length in line for _ in range(length)] for line in lines]
    assert lengths_of(torch.zeros(len(packed), width, 1), None, positions).tolist() == expected


def test_positions_that_begin_elsewhere_and_masks_of_other_shapes_are_lengths_of_something() -> None:
    embeddings = torch.zeros(2, 3, 4)
    assert lengths_of(embeddings, None, torch.tensor([[4, 5, 6], [2, 0, 1]])).tolist() == [[3, 3, 3], [3, 3, 3]]
    assert lengths_of(embeddings, torch.ones(2, 1, 3, 3), None).tolist() == [[3], [3]]


def test_an_evaluation_has_none_and_a_model_in_training_has_new_noise_at_every_call() -> None:
    model = noisy(5.0)
    ids = torch.randint(3, 60, (2, 8))
    assert not torch.equal(noise(model, input_ids=ids), noise(model, input_ids=ids))
    assert not noise(model.eval(), input_ids=ids).any()


def test_evaluations_are_those_of_the_plain_model() -> None:
    found = []
    for active in (True, False):
        with bench().run(active=active) as run, evaluating(run):
            found.append(loss_at(run, 0, 1))
    assert torch.equal(*found)


def losses(run: Run) -> list[float]:
    trained(run)
    lines = [json.loads(line) for line in (run.output / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_training_is_another_one_and_the_same_again_in_a_second_run() -> None:
    found = []
    for options in ({"alpha": 15.0}, {"alpha": 15.0}, {"active": False}):
        active = options.pop("active", True)
        with bench(**options).run(active=active) as run:
            found.append(losses(run))
    assert found[0] == found[1]
    assert found[0][0] != found[2][0]


@pytest.mark.parametrize("config", [{}, {"plugins": {"packing": {"window": 16}}}], ids=["padded", "packed"])
def test_a_run_continues_to_the_bit(config: dict[str, Any]) -> None:
    continues_to_the_bit(bench(config, alpha=15.0))


def test_with_other_techniques_it_draws_the_same_noise() -> None:
    plain, *others = ([], [GradientCheckpointing()], [ChunkedLoss(chunk=3)])
    with bench().run(Packing(window=16), *plain) as run:
        expected = losses(run)
    for plugins in others:
        with bench().run(Packing(window=16), *plugins) as run:
            assert losses(run) == pytest.approx(expected, rel=1e-5)


def test_embeddings_that_peft_copies_have_the_noise_too() -> None:
    model = noisy(5.0)
    model.set_input_embeddings(copy.deepcopy(model.get_input_embeddings()))
    assert noise(model, input_ids=torch.randint(3, 60, (2, 25))).abs().max() > 0


def test_adapters_learn_beside_it() -> None:
    ends = []
    for plugins in ({}, {"before": [Lora()]}):
        others = [] if plugins else [Lora()]
        with bench().run(*others, **plugins) as run:
            trained(run)
            ends.append(weights(run.model))
    assert not differing(*ends)
