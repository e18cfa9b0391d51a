from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from hfx import Run
from hfx.api import problems
from hfx.errors import ConfigError, IncompatibleError
from hfx.resolve import resolve
from hfx.testing.bench import Bench
from hfx.testing.examples import evaluating, logits_of, weights
from hfx.testing.training import trained
from hfx_plugins.memory.gradient_checkpointing import GradientCheckpointing
from hfx_plugins.models.lora import Lora
from hfx_plugins.precision.fp8 import FP8
from hfx_plugins.precision.fp8_impl import convert
from tiny_models import tiny_llama

# Not among the packages of every set-up: transformers imports it in each process where it is installed.
pytest.importorskip("torchao")
EMULATED = FP8(emulate=True)


def in_fp8(model: torch.nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if type(module).__name__ == "Float8Linear"}


def bench(**options: Any) -> Bench:
    return Bench.of(FP8, {"emulate": True, **options}, {}, None)


def messages(**options: Any) -> list[str]:
    resolved = resolve(mapping={"data": "rows.txt", "plugins": {"fp8": options}})
    return [problem.message for problem in problems(resolved) if problem.fatal]


# ── which layers ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_linear_layers_are_in_fp8_but_for_the_head_and_the_parameters_are_those_before() -> None:
    model = tiny_llama()
    before = dict(model.named_parameters())
    linear = {name for name, module in model.named_modules() if type(module) is torch.nn.Linear}

    converted = convert(model, EMULATED)

    assert in_fp8(converted) == linear - {"lm_head"}
    after = dict(converted.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)


def test_layers_that_patterns_name_and_those_of_other_sizes_stay() -> None:
    found = in_fp8(convert(tiny_llama(intermediate_size=40), FP8(emulate=True, skip=["*.layers.0", "*.q_proj"])))

    assert found == {f"model.layers.1.self_attn.{name}" for name in ("k_proj", "v_proj", "o_proj")}


def test_a_pattern_that_names_no_layer_and_a_model_without_any_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'fp8.skip'.*'\*.q_prj'"):
        convert(tiny_llama(), FP8(skip=["*.q_prj"]))
    with pytest.raises(IncompatibleError, match=r"multiples of 16 .* use '--plugin bf16'"):
        convert(tiny_llama(hidden_size=24, intermediate_size=40, num_attention_heads=2), EMULATED)


# ── what they compute ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("recipe", ["tensorwise", "rowwise", "rowwise_with_gw_hp"])
def test_a_product_is_that_of_operands_rounded_to_fp8(recipe: Any) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(32, 48, bias=False))
    # Powers of two with three bits behind them: fp8 (e4m3) has them all; and one that it has not.
    states = torch.randint(8, 14, (5, 32)).float() / 8
    weight = torch.randint(8, 15, (48, 32)).float() / 8
    states[:, 0] = weight[:, 0] = 1.75
    model[0].weight.data = weight.clone()
    exact = states @ weight.T
    layer = convert(model, FP8(emulate=True, recipe=recipe))[0]

    off = states.clone()
    off[:, 1:] += 0.06  # nearer to the number before than to the one behind

    assert torch.allclose(layer(states), exact, rtol=1e-5)
    assert not torch.allclose(off @ weight.T, exact, rtol=1e-2)
    assert torch.allclose(layer(off), exact, rtol=1e-2)


def test_a_run_learns_in_it_with_losses_near_those_of_fp32_but_not_the_same() -> None:
    losses = []
    for active in (True, False):
        with bench().run(active=active, steps=7) as run:
            trained(run)
            losses.append(run.last_metrics["loss"])
            if active:
                assert in_fp8(run.model)
                assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]


@pytest.mark.parametrize("tokens", [1, 7, 16])
def test_any_number_of_tokens_has_gradients(tokens: int) -> None:
    model = convert(tiny_llama(), EMULATED)

    model(input_ids=torch.ones(1, tokens, dtype=torch.long)).logits.sum().backward()

    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("other", [Lora(), GradientCheckpointing()], ids=lambda plugin: plugin.name)
def test_adapters_and_recomputed_layers_go_with_it(other: Any) -> None:
    with bench().run(other) as run:
        before = weights(run.model)
        trained(run)
        assert in_fp8(run.model)
        assert any(not torch.equal(before[name], tensor) for name, tensor in weights(run.model).items())


def test_the_exported_model_is_a_plain_one() -> None:
    from transformers import AutoModelForCausalLM

    with bench().run() as run:
        trained(run)
        own = weights(run.model)
        folder = run.hooks.export(run=run, path=run.output / "model")
        loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
        assert not in_fp8(loaded)
        assert all(torch.equal(own[name], p) for name, p in loaded.named_parameters())
        with evaluating(run):
            assert torch.allclose(logits_of(run, loaded, 0), logits_of(run, run.model, 0), atol=0.2)


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_without_it_is_refused_with_the_ways_out() -> None:
    assert messages() == [
        "'fp8' needs a GPU that multiplies in fp8 (compute capability 8.9 or higher), and the device is 'cpu'; "
        "use '--plugin bf16', or '--fp8.emulate true' to try it out"
    ]
    assert messages(emulate=True) == []


@pytest.mark.parametrize(("capability", "refused"), [((8, 6), True), ((8, 9), False), ((9, 0), False)])
def test_a_gpu_is_asked_what_it_can(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], refused: bool
) -> None:
    monkeypatch.setattr(Run, "device", property(lambda _: torch.device("cuda", 0)))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)

    assert bool(messages()) == refused


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)

    assert messages(emulate=True) == ["'fp8' needs the package 'torchao'; run: pip install 'hfx[fp8]'"]
