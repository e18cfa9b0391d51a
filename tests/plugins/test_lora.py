from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from hfx import Run, World
from hfx.errors import ConfigError, IncompatibleError, ModelError
from hfx.plan import Plan, plan
from hfx.resolve import resolve
from hfx.testing.bench import Bench
from hfx.testing.examples import differing, evaluating, logits_of, weights
from hfx.testing.tiny import pretrained_folder, tiny_rows, without_bars, write_rows
from hfx.testing.training import continues_to_the_bit, trained
from hfx_plugins.batching.packing import Packing
from hfx_plugins.memory.chunked_loss import ChunkedLoss
from hfx_plugins.memory.gradient_checkpointing import GradientCheckpointing
from hfx_plugins.models.lora import Lora
from hfx_plugins.models.lora_impl import install
from hfx_plugins.precision.bf16 import BF16
from tiny_models import Fields, TinyRun, tiny_llama

VARIANTS = ["lora", "dora", "rslora"]
TOGETHER = [Packing(window=16), GradientCheckpointing(), ChunkedLoss(chunk=3)]


def bench(config: dict[str, Any] | None = None, **options: Any) -> Bench:
    return Bench.of(Lora, options, config or {}, None)


def adapted(model: Any, seed: int = 0, **options: Any) -> Any:
    run = TinyRun(Fields(seed=seed), task=SimpleNamespace(unit="token", model_class="AutoModelForCausalLM"))
    install(model, Lora(**options), run)
    return model


def trained_names(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


# ── what is trained ──────────────────────────────────────────────────────────────────────────────────────────────────


def by_hand(rank: int, dora: bool, hidden: int = 32, inner: int = 64, layers: int = 2) -> int:
    shapes = [(hidden, hidden)] * 4 + [(inner, hidden)] * 2 + [(hidden, inner)]
    return layers * sum(rank * (rows + columns) + dora * rows for rows, columns in shapes)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rank", [1, 8])
def test_as_many_parameters_are_trained_as_the_shapes_say(variant: Any, rank: int) -> None:
    model = adapted(tiny_llama(), rank=rank, variant=variant)
    found = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found == by_hand(rank, variant == "dora")


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_adapters_get_gradients_and_optimizer_state_and_the_base_is_unchanged_to_the_bit(variant: Any) -> None:
    with bench(variant=variant).run() as run:
        run.build()
        model, before = run.model, weights(run.model)
        gradients: set[str] = set()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda _, name=name: gradients.add(name))
        run.hooks.run(run=run)
        adapters = {name for name in before if ".lora_" in name}
        assert trained_names(model) == gradients == set(differing(before, weights(model))) == adapters
        assert {id(p) for p in run.optimizer.state} == {id(p) for n, p in model.named_parameters() if n in adapters}
        state = sum(v.numel() for s in run.optimizer.state.values() for k, v in s.items() if k.startswith("exp"))
        assert state == 2 * by_hand(16, variant == "dora")


def test_a_new_adapter_changes_nothing() -> None:
    ids = torch.arange(16).view(2, 8)
    plain = tiny_llama()(input_ids=ids).logits
    for variant in VARIANTS:
        assert torch.allclose(adapted(tiny_llama(), variant=variant)(input_ids=ids).logits, plain, atol=1e-5)


def test_new_adapters_follow_from_the_seed_alone() -> None:
    ends = []
    for seed, noise in ((1, 5), (1, 6), (2, 5)):
        model = tiny_llama()
        torch.manual_seed(noise)
        ends.append(weights(adapted(model, seed=seed)))
        assert torch.initial_seed() == noise
    assert not differing(ends[0], ends[1])
    assert all(".lora_A." in name for name in differing(ends[0], ends[2]))
    assert differing(ends[0], ends[2])


def test_adapters_of_a_bf16_model_are_kept_in_float32() -> None:
    with bench().run(BF16(pure=True)) as run:
        dtypes = {n: p.dtype for n, p in run.model.named_parameters()}
        assert {dtype for name, dtype in dtypes.items() if ".lora_" in name} == {torch.float32}
        assert {dtype for name, dtype in dtypes.items() if ".lora_" not in name} == {torch.bfloat16}
        result = trained(run)
        assert math.isfinite(result.metrics["loss"])


def test_scaling_is_alpha_over_the_rank_and_over_its_root_with_rslora() -> None:
    for variant, scaling in (("lora", 2.0), ("rslora", 8.0)):
        model = adapted(tiny_llama(), rank=16, alpha=32, variant=variant)
        assert model.model.layers[0].mlp.up_proj.scaling["default"] == scaling


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3", "bert"])
def test_all_linear_finds_the_layers_of_other_architectures_and_leaves_the_head(architecture: str) -> None:
    sizes = {"gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2}}.get(
        architecture,
        {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    )
    if architecture == "qwen3":
        sizes |= {"num_key_value_heads": 1, "head_dim": 8}
    if architecture == "bert":
        sizes |= {"is_decoder": True}
    config = AutoConfig.for_model(architecture, vocab_size=64, **sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    model = adapted(AutoModelForCausalLM.from_config(config))
    assert trained_names(model)
    assert type(model.get_output_embeddings()) is torch.nn.Linear


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_name_that_fits_no_module_is_an_error_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'lora.targets'.*'q_prj'; did you mean 'q_proj'"):
        adapted(tiny_llama(), targets=["k_proj", "q_prj"])
    with pytest.raises(ConfigError, match=r"'lora.modules_to_save'.*'heads'"):
        adapted(tiny_llama(), modules_to_save=["heads"])
    with pytest.raises(ConfigError, match="name other layers"):
        adapted(tiny_llama(), targets=["norm"])


@pytest.mark.parametrize("options", [{"targets": ["lm_head"]}, {"modules_to_save": ["embed_tokens"]}])
def test_one_half_of_a_tied_matrix_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(IncompatibleError, match="one matrix"):
        adapted(tiny_llama(tie_word_embeddings=True), **options)
    assert trained_names(adapted(tiny_llama(), **options))


def test_a_head_in_which_the_loss_is_computed_is_refused_in_any_order() -> None:
    options = {"scratch": {"tie_embeddings": False, "hidden_size": 32, "layers": 2}}
    made = Bench.of(Lora, {"targets": ["lm_head"]}, {"plugins": options}, None)
    fields = {"model": None}
    for placed in ({"before": [ChunkedLoss()]}, {}):
        others = [] if placed else [ChunkedLoss()]
        with made.run(*others, **placed, **fields) as run, pytest.raises(IncompatibleError, match="chunked_loss"):
            _ = run.model


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_loss_falls() -> None:
    # The base is random, and its tied embeddings are not trained: most of the loss is out of reach.
    with bench().run(steps=40, batch_size=8, plugins={"adamw": {"lr": 1e-2}}) as run:
        end = trained(run).metrics["loss"]
        begin = json.loads((run.output / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    assert end < begin - 0.15


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_continues_to_the_bit_with_dropout(variant: Any) -> None:
    continues_to_the_bit(bench(variant=variant, dropout=0.2))


def test_packed_with_recomputed_activations_and_loss_by_chunks_it_learns_the_same_and_continues_to_the_bit() -> None:
    losses = []
    for others in ([TOGETHER[0]], TOGETHER, TOGETHER[::-1]):
        with bench().run(*others) as run:
            trained(run)
            losses.append(json.loads((run.output / "metrics.jsonl").read_text().splitlines()[-2])["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)
    plugins = {"packing": {"window": 16}, "gradient_checkpointing": {}, "chunked_loss": {"chunk": 3}}
    continues_to_the_bit(bench({"plugins": plugins}))


def test_recomputed_activations_leave_the_gradients_as_they_are() -> None:
    ends = []
    for others in ([], [GradientCheckpointing()]):
        with bench().run(*others) as run:
            trained(run)
            ends.append(weights(run.model))
    assert not differing(*ends)


# ── export ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("options", [*({"variant": v} for v in VARIANTS), {"modules_to_save": ["norm", "lm_head"]}])
@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_merged_export_is_a_plain_model_with_the_logits_of_the_adapted_one(
    options: dict[str, Any], tie: bool, architecture: str
) -> None:
    if "modules_to_save" in options:
        if tie:
            return
        options = {"modules_to_save": ["lm_head", {"llama": "norm", "gpt2": "ln_f"}[architecture]]}
    scratch = {"architecture": architecture, "tie_embeddings": tie, "hidden_size": 32, "layers": 2}
    plugins = {"scratch": scratch, "adamw": {"lr": 1e-2}}
    with bench({"model": None, "plugins": plugins}, **options).run() as run:
        trained(run)
        folder = run.hooks.export(run=run, path=run.output / "model")
        names = set(load_file(folder / "model.safetensors"))
        with without_bars():
            loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
        assert not [name for name in names if "lora" in name or "base_layer" in name or "original_module" in name]
        assert not (folder / "adapter_config.json").exists()
        with evaluating(run):
            found, expected = (logits_of(run, model, 3) for model in (loaded, run.model))
            assert torch.allclose(found, expected, atol=1e-5)
            for module in run.model.modules():
                if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper):
                    module.enable_adapters(False)
            assert not torch.allclose(logits_of(run, run.model, 3), expected, atol=1e-3), "the adapters learned nothing"


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_adapters_alone_are_loaded_over_the_base_by_peft(variant: Any) -> None:
    with bench(variant=variant, save="adapters", rank=4, modules_to_save=["norm"]).run(steps=9) as run:
        trained(run)
        folder = run.hooks.export(run=run, path=run.output / "model")
        written = {file.name for file in folder.iterdir()}
        assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= written
        assert not {"config.json", "model.safetensors"} & written
        saved = load_file(folder / "adapter_model.safetensors")
        assert sum(t.numel() for t in saved.values()) == by_hand(4, variant == "dora") + 32
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(pretrained_folder().resolve())
        assert config["task_type"] == "CAUSAL_LM"
        with without_bars(), evaluating(run):
            base = AutoModelForCausalLM.from_pretrained(pretrained_folder())
            loaded = PeftModel.from_pretrained(base, folder).eval()
            assert torch.allclose(logits_of(run, loaded, 3), logits_of(run, run.model, 3), atol=1e-5)
        assert "save_pretrained" not in vars(run.model)
        with pytest.raises(ModelError, match="holds adapters; load them with their base"):
            run.result().model()


def test_a_classifications_head_is_trained_and_exported_whole() -> None:
    plugins = {"classification": {"label": "label"}}
    for architecture, head in (("llama", "score"), ("bert", "classifier"), ("distilbert", "pre_classifier")):
        scratch = {"architecture": architecture, "hidden_size": 32, "layers": 1}
        config = {"model": None, "plugins": plugins | {"scratch": scratch}}
        with bench(config).run() as run:
            trained(run)
            names = trained_names(run.model)
            assert any(name.startswith(f"{head}.modules_to_save.") for name in names)
            assert any(".lora_A." in name for name in names)
            folder = run.hooks.export(run=run, path=run.output / "model")
            with without_bars(), evaluating(run):
                loaded = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
                assert torch.allclose(logits_of(run, loaded, 3), logits_of(run, run.model, 3), atol=1e-5)


# ── on the command line ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("lora")
    write_rows(tiny_rows(60), path / "rows.jsonl")
    return path


def hfx(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"HFX_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "hfx", *words]
    return subprocess.run(command, cwd=folder, env=environ, text=True, capture_output=True, timeout=200)


def train(folder: Path, output: str, *words: str) -> subprocess.CompletedProcess[str]:
    fields = ("--data", "rows.jsonl", "--seq-length", "32", "--batch-size", "4", "--steps", "3", "--output", output)
    return hfx(folder, "train", *fields, "--plugin", "lora", *words)


def test_two_runs_end_with_the_same_adapters_to_the_bit_and_generate_reads_what_they_wrote(folder: Path) -> None:
    ends = []
    for name in ("one", "two"):
        words = ("--lora.save", "adapters", "--lora.targets", "q_proj,v_proj", "--lora.dropout", "0.1")
        done = train(folder, name, "--model", str(pretrained_folder()), *words)
        assert done.returncode == 0, done.stderr
        assert f" {2 * 2 * 16 * 64:,} trained" in done.stderr
        ends.append(load_file(folder / name / "model" / "adapter_model.safetensors"))
    assert not differing(*ends)
    told = hfx(folder, "generate", "one", "--prompt", "the quick", "--max-new-tokens", "4")
    assert told.returncode == 0, told.stderr


def test_adapters_without_a_base_to_load_them_over_are_refused_at_once(folder: Path) -> None:
    done = train(folder, "refused", "--lora.save", "adapters")
    assert done.returncode == 2
    assert "set 'lora.save' to 'merged'" in done.stderr
    assert not (folder / "refused").exists()


def test_a_plan_has_less_gradients_and_optimizer_state(folder: Path) -> None:
    def planned(**plugins: Any) -> Plan:
        sizes = {"scratch": {"hidden_size": 256, "layers": 9}, "bpe": {"vocab_size": 300}, "fp32": {}}
        fields = {"data": str(folder / "rows.jsonl"), "steps": 3, "seq_length": 32, "batch_size": 4}
        run = Run(resolve(mapping={**fields, "plugins": sizes | plugins}), folder / "run", World())
        run.cache = folder / "cache"
        return plan(run)

    plain = planned()
    assert plain.trained == plain.parameters
    assert plain.peaks["optimizer"].total() == pytest.approx(16 * plain.parameters, rel=0.05)
    inner = -(-256 * 8 // 3 // 64) * 64
    for variant in ("lora", "dora"):
        found = planned(lora={"variant": variant})
        assert found.trained == by_hand(16, variant == "dora", 256, inner, 9)
        assert found.peak["optimizer state"] == pytest.approx(8 * found.trained, rel=1e-3)
        assert found.peak.total() < 0.8 * plain.peak.total()
        # The update holds parameters, gradients and two moments.
        held = 4 * found.parameters + 12 * found.trained
        assert found.peaks["optimizer"].total() == pytest.approx(held, rel=0.02)


def test_the_plan_says_what_adapters_save(folder: Path) -> None:
    sizes = ("--scratch.hidden-size", "64", "--scratch.layers", "2", "--bpe.vocab-size", "300", "--device", "h100")
    fields = ("plan", "--data", "rows.jsonl", "--steps", "3", "--seq-length", "32", "--batch-size", "4", *sizes)
    done = hfx(folder, *fields, "--plugin", "lora")
    assert done.returncode == 0, done.stderr
    assert "technique  lora:" in done.stdout
