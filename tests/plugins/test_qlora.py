from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, T5Config, T5ForConditionalGeneration

from hfx import Plugin, Run, World
from hfx.errors import ConfigError, IncompatibleError
from hfx.plan import Plan, plan
from hfx.resolve import resolve
from hfx.testing.bench import Bench
from hfx.testing.examples import differing, evaluating, logits_of, weights
from hfx.testing.tiny import pretrained_folder, tiny_rows, without_bars, write_rows
from hfx.testing.training import continues_to_the_bit, trained
from hfx_plugins.batching.packing import Packing
from hfx_plugins.memory.activation_offload import ActivationOffload
from hfx_plugins.memory.chunked_loss import ChunkedLoss
from hfx_plugins.memory.gradient_checkpointing import GradientCheckpointing
from hfx_plugins.models.lora import Lora
from hfx_plugins.models.qlora import Qlora
from hfx_plugins.models.qlora_impl import FourBit, PlannedFourBit, quantize

CPU = torch.device("cpu")
SCRATCH = {"hidden_size": 64, "layers": 2, "tie_embeddings": False}


def bench(config: dict[str, Any] | None = None, plugin: type[Plugin] = Qlora, **options: Any) -> Bench:
    return Bench.of(plugin, options, config or {"model": None, "plugins": {"scratch": SCRATCH}}, None)


def quantized(model: nn.Module) -> dict[str, FourBit]:
    return {name: module for name, module in model.named_modules() if isinstance(module, FourBit)}


def losses(run: Run) -> list[float]:
    trained(run)
    lines = [json.loads(line) for line in (run.output / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


# ── one layer ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shape", [(64, 128), (96, 40), (7, 33)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_computes_with_the_weight_that_it_gives_back(shape: tuple[int, int], bias: bool) -> None:
    torch.manual_seed(0)
    whole = nn.Linear(shape[1], shape[0], bias=bias)
    layer = FourBit(whole, CPU)
    plain = layer.dequantized()
    error = (plain.weight - whole.weight).abs().max() / whole.weight.abs().max()
    assert 0 < error < 0.16, "the levels of nf4 are at most 0.31 of a block's largest weight apart"
    ends = []
    for module in (layer, plain):
        states = torch.linspace(-1, 1, 3 * shape[1]).view(3, shape[1]).requires_grad_()
        products = module(states)
        products.square().sum().backward()
        ends.append((products, states.grad))
    assert torch.equal(ends[0][0], ends[1][0])
    assert torch.allclose(ends[0][1], ends[1][1], rtol=1e-6)


def test_under_autocast_a_layer_computes_in_bf16() -> None:
    layer = FourBit(nn.Linear(64, 32), CPU)
    states = torch.randn(2, 64, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        products = layer(states)
    products.sum().backward()
    assert products.dtype == torch.bfloat16
    assert states.grad.dtype == torch.float32


def test_a_weight_takes_half_a_byte_and_its_scales_a_64th() -> None:
    layer = FourBit(nn.Linear(512, 256, bias=False), CPU)
    count = 512 * 256
    scales = count // 64
    held = sum(tensor.nbytes for tensor in (*layer.parameters(), *layer.buffers()))
    assert held == count // 2 + scales + 4 * math.ceil(scales / 256) + 1_024 + 4
    stand_in = PlannedFourBit(nn.Linear(512, 256, bias=False), CPU)
    assert sum(t.nbytes for t in (*stand_in.parameters(), *stand_in.buffers())) == pytest.approx(held, abs=8)


# ── what is trained ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_base_is_in_four_bits_and_only_adapters_learn() -> None:
    with bench().run() as run:
        run.build()
        names = set(quantized(run.model))
        assert len(names) == 2 * 7
        assert type(run.model.get_output_embeddings()) is nn.Linear
        before = weights(run.model)
        learns = {name for name, parameter in run.model.named_parameters() if parameter.requires_grad}
        assert learns == {name for name in before if ".lora_" in name}
        run.hooks.run(run=run)
        assert set(differing(before, weights(run.model))) == learns


def test_the_weights_of_layers_take_less_than_a_sixth_of_what_they_take_with_lora() -> None:
    def held(made: Bench) -> int:
        with made.run() as run:
            inner = run.model.model.layers
            base = [(n, t) for n, t in (*inner.named_parameters(), *inner.named_buffers()) if ".lora_" not in n]
            return sum(tensor.nbytes for _, tensor in base)

    wide = {"model": None, "plugins": {"scratch": {"hidden_size": 256, "layers": 2}}}
    assert held(bench(wide)) < held(bench(wide, Lora)) / 6


def test_it_learns_as_lora_does() -> None:
    wanted = {"model": None, "steps": 30, "batch_size": 8, "plugins": {"scratch": SCRATCH, "adamw": {"lr": 1e-2}}}
    found = []
    for plugin in (Lora, Qlora):
        with bench(wanted, plugin).run() as run:
            found.append(losses(run))
    assert found[1] == pytest.approx(found[0], rel=0.03)
    assert found[1] != found[0]
    assert found[1][-1] < found[1][0] - 0.15


def test_together_with_what_else_saves_memory_the_losses_stay() -> None:
    together = [Packing(window=16), GradientCheckpointing(), ChunkedLoss(chunk=3), ActivationOffload(min_size=256)]
    found = []
    for others in (together[:1], together, together[::-1]):
        with bench().run(*others) as run:
            found.append(losses(run))
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert found[2] == pytest.approx(found[0], rel=1e-4)


def test_a_run_continues_to_the_bit_with_dropout_and_in_bf16() -> None:
    continues_to_the_bit(bench(dropout=0.2))
    continues_to_the_bit(bench({"model": None, "plugins": {"scratch": SCRATCH, "bf16": {"pure": True}, "no:fp32": {}}}))


def test_a_checkpoint_holds_the_base_in_four_bits() -> None:
    with bench().run(steps=1) as run:
        trained(run)
        (checkpoint,) = (run.output / "checkpoints").iterdir()
        saved: dict[str, torch.Tensor] = {}
        for file in checkpoint.glob("**/*.safetensors"):
            saved |= load_file(file)
        name = "model.model.layers.0.mlp.up_proj.base_layer"
        layer = run.model.get_submodule(name.removeprefix("model."))
        assert torch.equal(saved[f"{name}.weight"], layer.weight)
        assert saved[f"{name}.weight"].dtype == torch.uint8
        assert torch.equal(saved[f"{name}.scales"], layer.scales)


# ── export ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "options",
    [{}, {"variant": "rslora"}, {"targets": ["q_proj", "v_proj"]}, {"modules_to_save": ["norm", "down_proj"]}],
    ids=["all", "rslora", "some layers", "modules to save"],
)
def test_the_merged_export_is_a_plain_model_with_the_logits_of_the_trained_one(options: dict[str, Any]) -> None:
    plugins = {"scratch": SCRATCH, "adamw": {"lr": 1e-2}}
    with bench({"model": None, "plugins": plugins}, **options).run() as run:
        trained(run)
        assert len(quantized(run.model)) == (12 if "modules_to_save" in options else 14)
        folder = run.hooks.export(run=run, path=run.output / "model")
        saved = load_file(folder / "model.safetensors")
        assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
        assert not [name for name in saved if "lora" in name or "scales" in name or "base_layer" in name]
        with without_bars():
            loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
        with evaluating(run):
            assert torch.allclose(logits_of(run, loaded, 3), logits_of(run, run.model, 3), atol=1e-5)
        assert quantized(run.model), "the model that trains on stays in 4 bits"


def test_peft_loads_the_adapters_alone_over_a_base_as_they_saw_it() -> None:
    with bench({"seed": 7}, save="adapters", rank=4).run() as run:
        trained(run)
        folder = run.hooks.export(run=run, path=run.output / "model")
        saved = load_file(folder / "adapter_model.safetensors")
        assert len(saved) == 2 * 2 * 7
        with without_bars(), evaluating(run):
            base = AutoModelForCausalLM.from_pretrained(pretrained_folder())
            for name, layer in quantized(run.model).items():
                base.get_submodule(name.removesuffix(".base_layer")).weight.data = layer.dequantized().weight
            loaded = PeftModel.from_pretrained(base, folder).eval()
            assert torch.allclose(logits_of(run, loaded, 3), logits_of(run, run.model, 3), atol=1e-5)
        inner = {name.removeprefix("base_model.model."): tensor for name, tensor in saved.items()}
        trained_now = {n.replace(".default", ""): p for n, p in run.model.named_parameters() if ".lora_" in n}
        assert all(torch.equal(inner[name], trained_now[name]) for name in trained_now)


def test_a_classifications_head_stays_whole_and_is_trained() -> None:
    plugins = {"classification": {"label": "label"}, "scratch": {"architecture": "bert", **SCRATCH}}
    with bench({"model": None, "plugins": plugins}).run() as run:
        trained(run)
        assert quantized(run.model)
        assert not [name for name in quantized(run.model) if name.startswith("classifier")]
        folder = run.hooks.export(run=run, path=run.output / "model")
        with without_bars(), evaluating(run):
            loaded = AutoModelForSequenceClassification.from_pretrained(folder).eval()
            assert torch.allclose(logits_of(run, loaded, 3), logits_of(run, run.model, 3), atol=1e-5)


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_two_plugins_with_adapters_are_refused_by_both_names() -> None:
    refused = pytest.raises(IncompatibleError, match="'qlora' has adapters of its own, as 'lora' has")
    with refused, bench().run(Lora()):
        pass
    with refused, bench().run(before=[Lora()]):
        pass


def test_a_missing_package_is_named_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench()
    _ = made.fields
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it were not installed
    with pytest.raises(IncompatibleError, match=r"pip install 'hfx\[lora,bitsandbytes\]'"), made.run():
        pass


def test_layers_that_are_not_linear_are_refused_with_what_to_take() -> None:
    config = {"model": None, "plugins": {"scratch": {"architecture": "gpt2", "hidden_size": 32, "layers": 1}}}
    with bench(config).run() as run, pytest.raises(IncompatibleError, match="take '--plugin lora'"):
        _ = run.model


def test_a_layer_whose_dtype_a_model_takes_for_its_states_stays_whole() -> None:
    model = T5ForConditionalGeneration(
        T5Config(vocab_size=60, d_model=64, d_kv=16, d_ff=128, num_layers=1, num_heads=4, decoder_start_token_id=0)
    )
    run = SimpleNamespace(planning=False, device=torch.device("cpu"))
    quantize(model, Qlora(), cast("Run", run))
    kinds = {name: type(module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert {kind for name, kind in kinds.items() if name.endswith(".wo")} == {torch.nn.Linear}
    assert {kind for name, kind in kinds.items() if name.endswith(".wi")} == {FourBit}


def test_states_that_a_model_turned_into_bytes_are_refused() -> None:
    layer = FourBit(torch.nn.Linear(64, 64), torch.device("cpu"))
    with pytest.raises(IncompatibleError, match="turns what it multiplies into the dtype of its weights"):
        layer(torch.ones(2, 64).to(layer.weight.dtype))


def test_wrong_names_are_told_as_options_of_this_plugin() -> None:
    with bench(targets=["q_prj"]).run() as run, pytest.raises(ConfigError, match=r"'qlora.targets'.*'q_proj'"):
        _ = run.model
    with bench(modules_to_save=["nrm"]).run() as run, pytest.raises(ConfigError, match=r"'qlora.modules_to_save'"):
        _ = run.model


# ── on the command line ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("qlora")
    write_rows(tiny_rows(60), path / "rows.jsonl")
    return path


@pytest.mark.slow
def test_the_command_needs_a_model_and_the_plugin_and_says_nothing_of_its_library(folder: Path) -> None:
    environ = os.environ | {"HFX_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = ("--model", str(pretrained_folder()), "--data", "rows.jsonl", "--plugin", "qlora", "--seq-length", "32")
    for command in (("train", *words, "--steps", "3", "--batch-size", "4", "--output", "run"), ("generate", "run")):
        typed = [sys.executable, "-m", "hfx", *command]
        if command[0] == "generate":
            typed += ["--prompt", "the quick", "--max-new-tokens", "4"]
        done = subprocess.run(typed, cwd=folder, env=environ, text=True, capture_output=True, timeout=200)
        assert done.returncode == 0, done.stderr
        assert "kernels-community" not in done.stderr


def planned(folder: Path, shorten: bool = True, **plugins: Any) -> Plan:
    sizes = {"scratch": {"hidden_size": 256, "layers": 9}, "bpe": {"vocab_size": 300}, "fp32": {}}
    fields = {"data": str(folder / "rows.jsonl"), "steps": 3, "seq_length": 32, "batch_size": 4}
    run = Run(resolve(mapping={**fields, "plugins": sizes | plugins}), folder / "run", World())
    run.cache = folder / "cache"
    return plan(run, shorten=shorten)


@pytest.mark.slow
def test_a_plan_has_the_base_in_four_bits(folder: Path) -> None:
    found, lora = planned(folder, qlora={}), planned(folder, lora={})
    assert found.trained == lora.trained
    with bench({"model": None, "plugins": {"scratch": {"hidden_size": 256, "layers": 9}}}).run() as run:
        held = sum(tensor.nbytes for tensor in (*run.model.parameters(), *run.model.buffers()))
    step = found.peaks["optimizer"]
    assert step["parameters"] + step["buffers"] == pytest.approx(held, rel=0.02)
    assert step.total() < 0.4 * lora.peaks["optimizer"].total()
    whole = planned(folder, shorten=False, qlora={})
    assert found.peaks["optimizer"].total() == pytest.approx(whole.peaks["optimizer"].total(), rel=1e-3)
    assert found.peak.total() == pytest.approx(whole.peak.total(), rel=1e-2)
