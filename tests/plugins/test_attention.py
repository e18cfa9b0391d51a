from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hfx import Plugin
from hfx.errors import IncompatibleError
from hfx.loop import collate, to_device
from hfx.testing.bench import Bench
from hfx.testing.examples import weights
from hfx.testing.tiny import pretrained_folder, tiny_rows, write_rows
from hfx.testing.training import trained
from hfx_plugins.batching.packing import Packing
from hfx_plugins.models.attention import Attention
from hfx_plugins.models.lora import Lora

FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


def bench(config: dict[str, Any] | None = None, **options: Any) -> Bench:
    return Bench.of(Attention, options, config or {}, None)


class Fused(TorchDispatchMode):
    """Counts calls of the kernel that keeps no scores."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func is FUSED
        return func(*args, **(kwargs or {}))


def fused_calls(made: Bench, *others: Plugin, active: bool = True) -> int:
    """Return how often one forward pass of a run's step calls the fused kernel."""
    with made.run(*others, active=active) as run:
        run.build()
        batch = to_device(collate(run, next(run.order.batches(run.position)).sequences), run.device)
        with Fused() as seen:
            run.module(batch)
        return seen.calls


def test_the_kernel_that_is_named_computes() -> None:
    assert fused_calls(bench(kernel="sdpa")) == 2, "one for each layer"
    assert fused_calls(bench(kernel="eager")) == 0


def test_both_learn_the_same_packed_and_with_adapters() -> None:
    for others in ([], [Packing(window=16)], [Lora()]):
        ends = []
        for kernel in ("sdpa", "eager"):
            with bench(kernel=kernel).run(*others) as run:
                trained(run)
                ends.append(weights(run.model))
        assert all(torch.allclose(ends[0][name], ends[1][name], atol=1e-4) for name in ends[0])


def test_what_was_chosen_and_why_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with bench().run() as run, caplog.at_level(logging.WARNING, "hfx"):
        _ = run.model
    assert caplog.messages == ["attention: sdpa (torch's own, on cpu)"]
    caplog.clear()
    with bench(kernel="eager").run() as run, caplog.at_level(logging.WARNING, "hfx"):
        run.planning = True
        _ = run.model
    assert not caplog.messages


def test_an_architecture_that_knows_one_kernel_has_that_one(caplog: pytest.LogCaptureFixture) -> None:
    config = {"model": None, "plugins": {"scratch": {"architecture": "bloom", "hidden_size": 32, "layers": 1}}}
    with bench(config).run() as run, caplog.at_level(logging.WARNING, "hfx"):
        assert run.model.config._attn_implementation == "eager"
    assert caplog.messages == ["attention: eager ('BloomForCausalLM' knows no other)"]
    with bench(config, kernel="sdpa").run() as run, pytest.raises(IncompatibleError, match="cannot have 'sdpa'"):
        _ = run.model


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("attention")
    write_rows(tiny_rows(60), path / "rows.jsonl")
    (path / "with_flash" / "flash_attn").mkdir(parents=True)
    (path / "with_flash" / "flash_attn" / "__init__.py").touch()
    return path


def train(folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    usual = {"HFX_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "hfx", "train", "--data", "rows.jsonl", "--plugin", "attention", *words]
    environ = os.environ | usual | environ
    return subprocess.run(command, cwd=folder, env=environ, text=True, capture_output=True, timeout=200)


@pytest.mark.parametrize(
    ("words", "environ", "told"),
    [
        (("--attention.kernel", "flash"), {}, "needs the package 'flash-attn'"),
        (("--attention.kernel", "flash"), {"PYTHONPATH": "with_flash"}, "'flash' attention runs on a GPU alone"),
        (("--attention.kernel", "flex"), {}, "'flex' attention has no backward pass outside a GPU"),
        (
            ("--model", str(pretrained_folder()), "--pretrained.attn-implementation", "sdpa"),
            {},
            "'attention' and 'pretrained.attn_implementation' both name attention's code",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    folder: Path, words: tuple[str, ...], environ: dict[str, str], told: str
) -> None:
    done = train(folder, *words, "--output", "refused", **environ)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr.splitlines()[-1]
    assert not (folder / "refused").exists()
