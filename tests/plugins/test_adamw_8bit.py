from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.optim import AdamW8bit as Library
from bitsandbytes.optim import GlobalOptimManager
from pydantic import ValidationError

from hfx import ParamGroups, Run
from hfx.api import problems
from hfx.errors import IncompatibleError
from hfx.plan import plan
from hfx.resolve import resolve
from hfx_plugins.models.scratch import Scratch
from hfx_plugins.optimizers.adamw_8bit import AdamW8bit
from hfx_plugins.precision.fp32 import FP32
from hfx_plugins.tokenizers.bpe import Bpe
from tiny_models import TinyRun, decayed, losses, share_of_adamw, tiny_llama

ALL = AdamW8bit(lr=2e-3, beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=0.3, quantize_embeddings=True, min_8bit_size=256)
"""Every matrix of a tiny model has 8 bits."""


@dataclass(frozen=True)
class RunOf(TinyRun):
    """A run that has built its model."""

    model: Any = None


def optimizer_of(model: torch.nn.Module, plugin: AdamW8bit = ALL) -> torch.optim.Optimizer:
    return plugin.hfx_optimizer(ParamGroups(model), RunOf(model=model))


def library(model: torch.nn.Module) -> torch.optim.Optimizer:
    return Library(decayed(model, 0.3), lr=2e-3, betas=(0.8, 0.95), eps=1e-6, min_8bit_size=256)


def stepped(model: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def quantized(plugin: AdamW8bit, **sizes: Any) -> set[str]:
    """Return the names of what has state in 8 bits."""
    model = tiny_llama(**sizes)
    optimizer = optimizer_of(model, plugin)
    stepped(model, optimizer)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert optimizer.state.keys() == names.keys()
    return {names[p] for p, state in optimizer.state.items() if state["state1"].dtype == torch.uint8}


# ── the optimizer ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_trains_exactly_as_the_library_does() -> None:
    ours = losses(optimizer_of)

    assert ours == losses(library)
    assert ours != losses(lambda model: optimizer_of(model, ALL.model_copy(update={"min_8bit_size": 10_000})))


def test_embeddings_in_32_bits_are_those_of_the_librarys_manager() -> None:
    @contextmanager
    def managed(model: torch.nn.Module) -> Iterator[torch.optim.Optimizer]:
        manager = GlobalOptimManager.get_instance()
        manager.override_config(model.get_input_embeddings().weight, "optim_bits", 32)
        try:
            yield library(model)
        finally:
            manager.pid2config.clear()

    plugin = ALL.model_copy(update={"quantize_embeddings": False})
    ours, theirs, eight = tiny_llama(), tiny_llama(), tiny_llama()
    with managed(theirs) as manager:
        one, all_eight = optimizer_of(ours, plugin), optimizer_of(eight)
        for seed in range(4):
            for model, optimizer in ((ours, one), (theirs, manager), (eight, all_eight)):
                stepped(model, optimizer, seed)

    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert not torch.equal(ours.model.embed_tokens.weight, eight.model.embed_tokens.weight)


def test_it_stays_near_adamw() -> None:
    def adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(decayed(model, 0.3), lr=2e-3, betas=(0.8, 0.95), eps=1e-6)

    assert losses(optimizer_of) == pytest.approx(losses(adamw), abs=0.02)


def test_large_matrices_have_8_bits_and_embeddings_norms_and_what_is_small_32() -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_key_value_heads": 2}
    inside = {f"model.layers.{n}.mlp.{part}_proj.weight" for n in (0, 1) for part in ("gate", "up", "down")} | {
        f"model.layers.{n}.self_attn.{part}_proj.weight" for n in (0, 1) for part in "qo"
    }
    embedding = "model.embed_tokens.weight"

    assert quantized(AdamW8bit(), **sizes) == inside | {"lm_head.weight"}
    assert quantized(AdamW8bit(), **sizes, tie_word_embeddings=True) == inside
    assert quantized(AdamW8bit(quantize_embeddings=True), **sizes) == inside | {"lm_head.weight", embedding}
    assert quantized(AdamW8bit(min_8bit_size=4097), **sizes) == {name for name in inside if ".mlp." in name}


def test_its_state_of_a_matrix_is_a_quarter_of_adamws() -> None:
    assert share_of_adamw(lambda model: optimizer_of(model, AdamW8bit())) <= 0.26


def test_zero_gradients_leave_numbers() -> None:
    model = tiny_llama()
    optimizer = optimizer_of(model)
    for size in (0.0, 1.0, 0.0):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, size)
        optimizer.step()

    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


@pytest.mark.parametrize("at", ["built", "stepped"])
def test_a_backend_that_holds_parameters_in_parts_is_refused(at: str) -> None:
    model = tiny_llama()
    if at == "built":
        model.lm_head.weight.ds_shape = model.lm_head.weight.shape  # what ZeRO-3 leaves
        with pytest.raises(IncompatibleError, match=r"'adamw_8bit' updates whole parameters.*'--plugin adamw'"):
            optimizer_of(model)
        return
    optimizer = optimizer_of(model)
    flat = torch.nn.Parameter(torch.cat([p.detach().flatten() for p in optimizer.param_groups[0]["params"]]))
    flat.grad = torch.ones_like(flat)
    optimizer.param_groups[0]["params"] = [flat]

    with pytest.raises(IncompatibleError, match=r"'adamw_8bit' updates whole parameters.*'--plugin adamw'"):
        optimizer.step()


# ── in a run ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_planner_sees_the_state_and_what_a_cpu_holds_for_an_update(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    text = tmp_path / "rows.txt"
    text.write_text("\n\n".join(f"the {number} quick foxes jump over it" for number in range(40)))
    parts = (AdamW8bit(), Scratch(hidden_size=64, layers=2, tie_embeddings=False), Bpe(vocab_size=400), FP32())
    fields = {"data": str(text), "steps": 2, "batch_size": 2, "seq_length": 24, "eval_share": 0}

    found = plan(make_run(*parts, **fields)).peaks["optimizer"]
    run = make_run(*parts, **fields)
    run.output.mkdir()
    run.build()
    run.train_step(next(iter(run.batches())))

    held = sum(v.nbytes for s in run.optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor))
    assert found["optimizer state"] == held
    largest = max(p.numel() for p, state in run.optimizer.state.items() if "qmap1" in state)
    assert found["temporary"] == pytest.approx(5 * 4 * largest, abs=5_000)


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)

    found = [p.message for p in problems(resolve(mapping={"data": "rows.txt", "plugins": {"adamw_8bit": {}}}))]

    assert found == ["'adamw_8bit' needs the package 'bitsandbytes'; run: pip install 'hfx[bitsandbytes]'"]


@pytest.mark.parametrize(("version", "refused"), [("0.49.2", True), ("0.50.0.dev0", False), ("1.0.0", False)])
def test_a_version_whose_optimizers_need_a_gpu_is_refused(
    version: str, refused: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    about = tmp_path / f"bitsandbytes-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: bitsandbytes\nVersion: {version}\n")
    monkeypatch.syspath_prepend(tmp_path)

    found = [p.message for p in problems(resolve(mapping={"data": "rows.txt", "plugins": {"adamw_8bit": {}}}))]

    wanted = (
        f"'adamw_8bit' needs bitsandbytes 0.50 or newer, and {version} is installed; "
        "run: pip install --upgrade 'hfx[bitsandbytes]'"
    )
    assert found == [wanted] * refused


@pytest.mark.parametrize(
    "option", [{"lr": 0}, {"beta1": 1}, {"beta2": 1}, {"eps": 0}, {"weight_decay": -1}, {"min_8bit_size": 0}]
)
def test_an_option_out_of_range_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AdamW8bit(**option)
