from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from hfx import Plugin, Run
from hfx.errors import ConfigError, IncompatibleError
from hfx.testing.bench import Bench
from hfx.testing.examples import differing, evaluating, logits_of, weights
from hfx.testing.tiny import WORDS, tiny_rows, without_bars, write_rows
from hfx.testing.training import continues_to_the_bit, trained
from hfx_plugins.batching.packing import Packing
from hfx_plugins.memory.activation_offload import ActivationOffload
from hfx_plugins.memory.chunked_loss import ChunkedLoss
from hfx_plugins.memory.compile import Compile
from hfx_plugins.memory.gradient_checkpointing import GradientCheckpointing
from hfx_plugins.models.lora import Lora
from hfx_plugins.models.neftune import Neftune

LAYERS = 4
SHORT_ROWS = [{"text": " ".join(WORDS[(n + i) % 14] for i in range(1 + n * 5 % 13))} for n in range(40)]
"""Rows of many lengths, so that batches have many shapes."""


def bench(architecture: str = "llama", rows: list[Any] | None = None, **options: Any) -> Bench:
    scratch = {"architecture": architecture, "hidden_size": 32, "layers": LAYERS}
    fields = {"model": None, "steps": 3, "plugins": {"scratch": scratch}}
    # What torch traces is checked without a compiler behind it, and with one, which takes long, in the slow tests.
    return Bench.of(Compile, {"backend": "eager", **options}, fields, rows)


@pytest.fixture(autouse=True)
def _counted_anew() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def losses(run: Run) -> list[float]:
    trained(run)
    lines = [json.loads(line) for line in (run.output / "metrics.jsonl").read_text().splitlines()]
    return [line.get("loss", line.get("eval_loss")) for line in lines]


def compared(made: Bench, *others: Plugin, **fields: Any) -> int:
    """Assert that a compiled run has the losses of one that is not, and return how many graphs were compiled."""
    found = []
    for active in (False, True):
        with made.run(*others, active=active, **fields) as run:
            found.append(losses(run))
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert not counters["recompile_limit"]
    assert not counters["graph_break"]
    return int(counters["stats"]["unique_graphs"])


# ── losses ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_all_layers_share_what_is_compiled_and_the_losses_are_the_same() -> None:
    graphs = compared(bench())
    assert 1 <= graphs <= 3  # one to train and one to evaluate; another where the batch has another shape


TOGETHER: dict[str, list[Plugin]] = {
    "recomputed": [GradientCheckpointing()],
    "matmuls kept": [GradientCheckpointing(keep="matmuls", every=2)],
    "offloaded": [ActivationOffload(min_size=256)],
    "all of them": [Packing(window=16), ChunkedLoss(chunk=3), GradientCheckpointing(), ActivationOffload(min_size=256)],
}


def test_together_with_what_else_saves_memory() -> None:
    assert compared(bench(), *TOGETHER["all of them"]) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("others", TOGETHER.values(), ids=TOGETHER)
def test_together_with_each_of_it(others: list[Plugin]) -> None:
    assert compared(bench(backend="aot_eager"), *others) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("others", [[Lora(dropout=0.1)], [Neftune()]], ids=["lora", "neftune"])
@pytest.mark.parametrize("regional", [True, False])
def test_together_with_what_changes_the_model(others: list[Plugin], regional: bool) -> None:
    assert compared(bench(regional=regional), *others) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gpt2", "bert"])
def test_other_architectures_have_layers_too(architecture: str) -> None:
    assert 1 <= compared(bench(architecture)) <= 3


def test_one_kernel_for_all_shapes_where_that_is_asked_for() -> None:
    graphs = compared(bench(rows=SHORT_ROWS, dynamic=True), steps=5, micro_batch_size=2, eval_share=0.0)
    assert graphs <= 2


def test_more_variants_than_torch_allows_by_itself_are_compiled() -> None:
    made = bench(rows=SHORT_ROWS, dynamic=False)
    graphs = compared(made, steps=14, micro_batch_size=1)
    assert graphs > 8, "so many lengths have the rows"
    assert torch._dynamo.config.recompile_limit == 8


@pytest.mark.slow
def test_the_body_as_a_whole_has_the_same_losses() -> None:
    assert compared(bench(regional=False)) >= 1


# ── what stays ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_names_class_and_export_stay_what_they_are() -> None:
    with bench().run(active=False) as run:
        plain = list(run.model.state_dict())
    with bench().run() as run:
        assert type(run.model) is LlamaForCausalLM
        assert list(run.model.state_dict()) == plain
        trained(run)
        (checkpoint,) = (run.output / "checkpoints").iterdir()
        names = {name for file in checkpoint.glob("**/*.safetensors") for name in load_file(file)}
        assert {f"model.{name}" for name, _ in run.model.named_parameters()} <= names
        assert not [name for name in names if "_orig_mod" in name]
        folder = run.hooks.export(run=run, path=run.output / "model")
        with without_bars(), evaluating(run):
            loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
            assert torch.allclose(logits_of(run, loaded, 3), logits_of(run, run.model, 3), atol=1e-5)


def test_layers_are_compiled_and_the_head_is_not() -> None:
    with bench().run() as run:
        compiled = {name for name, module in run.model.named_modules() if module._compiled_call_impl}
        assert compiled == {f"model.layers.{number}" for number in range(LAYERS)}
    with bench(regional=False).run() as run:
        assert {name for name, module in run.model.named_modules() if module._compiled_call_impl} == {"model"}


def test_a_plan_compiles_nothing() -> None:
    with bench().run() as run:
        run.planning = True
        assert not [module for module in run.model.modules() if module._compiled_call_impl]


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_unknown_compiler_is_an_error_with_the_nearest() -> None:
    with bench(backend="induktor").run() as run, pytest.raises(ConfigError, match="did you mean 'inductor'"):
        _ = run.model


def test_a_model_without_layers_that_are_alike_is_refused_with_what_to_set() -> None:
    with bench().run() as run:
        model = LlamaForCausalLM._from_config(run.model.config)
        del model.model.layers[1:]
        hook = Compile(backend="eager").hfx_model(run)
        next(hook)
        with pytest.raises(IncompatibleError, match=r"set 'compile.regional' to false"):
            hook.send(model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("compile")
    write_rows(tiny_rows(60), path / "rows.jsonl")
    return path


def train(folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"HFX_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"} | environ
    sizes = ("--bpe.vocab-size", "300", "--scratch.hidden-size", "32", "--scratch.layers", "2", "--seq-length", "32")
    command = [sys.executable, "-m", "hfx", "train", "--data", "rows.jsonl", *sizes, "--plugin", "compile", *words]
    return subprocess.run(command, cwd=folder, env=environ, text=True, capture_output=True, timeout=500)


def test_a_machine_without_a_compiler_is_told_so_at_once(folder: Path) -> None:
    done = train(folder, "--output", "refused", PATH=str(folder))
    assert done.returncode == 2
    assert "'compile' needs a C++ compiler, and there is no 'g++'" in done.stderr.splitlines()[-1]
    done = train(folder, "--output", "refused", "--compile.backend", "eager", "--compile.mode", "max-autotune")
    assert done.returncode == 2
    assert "'compile.mode' belongs to 'inductor'" in done.stderr.splitlines()[-1]
    assert not (folder / "refused").exists()


# ── with inductor ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize(
    "others",
    [[], TOGETHER["matmuls kept"], TOGETHER["all of them"]],
    ids=["alone", "matmuls kept", "all of them"],
)
def test_kernels_of_inductor_have_the_same_losses_and_other_last_bits(others: list[Plugin]) -> None:
    made = bench(backend="inductor")
    assert 1 <= compared(made, *others) <= 8
    ends = []
    for active in (False, True):
        with made.run(*others, active=active) as run:
            trained(run)
            ends.append(weights(run.model))
    assert differing(*ends), "nothing was computed by other kernels"


@pytest.mark.slow
def test_a_run_with_kernels_of_inductor_continues_to_the_bit_whatever_the_shapes() -> None:
    continues_to_the_bit(bench(rows=SHORT_ROWS, backend="inductor"), steps=7, micro_batch_size=1)


@pytest.mark.slow
def test_the_command_compiles_without_a_word(folder: Path) -> None:
    done = train(folder, "--steps", "3", "--output", "told")
    assert done.returncode == 0, done.stderr
    odd = [line for line in done.stderr.splitlines() if "inductor" in line.lower() or "dynamo" in line.lower()]
    assert not odd
