from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from hfx import Plugin, Run, hookimpl
from hfx.checkpoint import newest
from hfx.loaded import load
from hfx.plan import plan
from hfx.testing.bench import Bench
from hfx.testing.examples import differing, evaluating, logits_of, weights
from hfx.testing.tiny import tiny_rows, without_bars, write_rows
from hfx.testing.training import continues_to_the_bit, trained
from hfx.testing.witnesses import Stopper
from hfx_plugins.models.freeze import Freeze
from hfx_plugins.models.lora import Lora
from hfx_plugins.optimizers.ema import EMA
from hfx_plugins.optimizers.ema_impl import averaged, begin, update
from hfx_plugins.precision.bf16 import BF16
from tiny_models import tiny_llama


class Weights(Plugin):
    """Keeps the weights before the first step, and after every one."""

    @hookimpl(wrapper=True)
    def hfx_run(self, run: Run) -> Any:
        run.local["weights"] = [weights(run.model)]
        return (yield)

    @hookimpl
    def hfx_step_end(self, run: Run) -> None:
        run.local["weights"].append(weights(run.model))


def bench(config: dict[str, Any] | None = None, **options: Any) -> Bench:
    return Bench.of(EMA, options, config or {}, None)


def by_hand(
    history: list[dict[str, torch.Tensor]], decay: float, warmup: bool, before: int = 0
) -> dict[str, torch.Tensor]:
    average = {name: tensor.double() for name, tensor in history[0].items()}
    for step, current in enumerate(history[1:], start=before + 1):
        kept = min(decay, (1 + step) / (10 + step)) if warmup else decay
        average = {name: kept * mean + (1 - kept) * current[name].double() for name, mean in average.items()}
    return average


def state(run: Run) -> dict[str, torch.Tensor]:
    return dict(run.state["ema"])


@pytest.mark.parametrize("options", [{}, {"decay": 0.5}, {"decay": 0.9, "warmup": False}])
def test_the_average_is_that_of_the_weights_after_every_step(options: dict[str, Any]) -> None:
    with bench(**options).run(Weights()) as run:
        trained(run)
        expected = by_hand(run.local["weights"], options.get("decay", 0.999), options.get("warmup", True))
        found = state(run)
        assert found.keys() == expected.keys()
        assert all(torch.allclose(found[name].double(), expected[name], atol=1e-6) for name in found)
        assert differing(found, weights(run.model))


@given(st.floats(0.01, 0.99), st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_the_average_of_weights_that_stay_is_the_weights(decay: float, steps: int) -> None:
    model = tiny_llama()
    average: dict[str, Any] = {}
    begin(model, average)
    for _ in range(steps):
        update(model, average, decay)
    assert all(torch.allclose(average[name], p) for name, p in model.named_parameters())


def test_of_bf16_weights_the_average_is_kept_in_float32() -> None:
    with bench(decay=0.999, warmup=False).run(BF16(pure=True), Weights()) as run:
        trained(run)
        assert {tensor.dtype for tensor in state(run).values()} == {torch.float32}
        expected = by_hand(run.local["weights"], 0.999, False)
        assert all(torch.allclose(state(run)[name].double(), expected[name], atol=1e-6) for name in expected)


def test_the_planner_and_the_line_on_the_disk_count_it() -> None:
    told = {}
    for active in (True, False):
        with bench({"keep": 50}).run(active=active) as run:
            said: list[str] = []
            told[active] = plan(run, said=said), next(line for line in said if line.startswith("disk"))
            size = sum(parameter.numel() * 4 for parameter in run.model.parameters())
    assert told[True][0].peak["state of plugins"] == size
    assert told[True][0].peak.total() - told[False][0].peak.total() == size
    assert told[True][1] != told[False][1]


def test_what_is_not_trained_has_no_average() -> None:
    with bench().run(Freeze(only=["*norm*"])) as run:
        trained(run)
        assert set(state(run)) == {name for name, _ in run.model.named_parameters() if "norm" in name}


def test_a_model_is_given_its_averaged_weights_for_a_while_and_its_own_back_even_after_a_failure() -> None:
    model = tiny_llama()
    average = {name: torch.full_like(p, 0.5) for name, p in model.named_parameters()}
    before = weights(model)

    def fail() -> None:
        with averaged(model, average):
            assert not differing(average, weights(model))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not differing(before, weights(model))


# ── export ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def loaded(folder: Path) -> Any:
    with without_bars():
        return AutoModelForCausalLM.from_pretrained(folder).eval()


def test_the_averaged_weights_are_exported_and_the_trained_ones_beside_them_where_asked() -> None:
    with bench(decay=0.5).run() as run:
        trained(run)
        own, mean = weights(run.model), state(run)
        folder = run.hooks.export(run=run, path=run.output / "model")
        assert not differing(mean, weights(loaded(folder)))
        assert not (run.output / "model-ema").exists()
    with bench(decay=0.5, save="both").run() as run:
        trained(run)
        own, mean = weights(run.model), state(run)
        folder = run.hooks.export(run=run, path=run.output / "model")
        assert folder == run.output / "model"
        assert not differing(own, weights(loaded(folder)))
        assert not differing(mean, weights(loaded(run.output / "model-ema")))
        run.hooks.export(run=run, path=run.output / "again")
        assert not differing(own, weights(loaded(run.output / "again")))


@pytest.mark.parametrize("first", ["ema", "lora"])
@pytest.mark.parametrize("save", ["merged", "adapters"])
def test_averaged_adapters_are_what_is_exported_in_any_order(first: str, save: Any) -> None:
    lora = Lora(save=save, rank=4)
    given: dict[str, Any] = {"before": [lora]} if first == "lora" else {}
    others = [] if first == "lora" else [lora]
    with bench(decay=0.7).run(*others, **given, steps=9, plugins={"adamw": {"lr": 1e-2}}) as run:
        trained(run)
        found = loaded(run.hooks.export(run=run, path=run.output / "model"))
        with evaluating(run):
            own = logits_of(run, run.model, 3)
            with averaged(run.model, run.state["ema"]):
                expected = logits_of(run, run.model, 3)
            assert torch.allclose(logits_of(run, found, 3), expected, atol=1e-5)
            assert not torch.allclose(own, expected, atol=1e-4)


# ── resuming ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_average_continues_to_the_bit_and_the_weights_do() -> None:
    made = bench(decay=0.9)
    with made.run() as run:
        trained(run)
        expected = state(run)
    output = made.fresh("stopped")
    for stopper in (Stopper(after=3), Stopper(after=10_000)):
        with made.run(stopper, output=output) as run:
            run.build()
            if found := newest(output, 1):
                run.restore(found)
            run.hooks.run(run=run)
            end = state(run)
    assert not differing(expected, end)
    continues_to_the_bit(made)


def test_a_run_that_is_resumed_with_an_average_begins_it_there() -> None:
    made = bench(decay=0.9)
    output = made.fresh("without")
    with made.run(Stopper(after=3), active=False, output=output) as run:
        trained(run)
    with made.run(Weights(), output=output) as run:
        run.build()
        found = newest(output, 1)
        assert found is not None
        run.restore(found)
        run.hooks.run(run=run)
        assert set(state(run)) == {name for name, _ in run.model.named_parameters()}
        history = run.local["weights"]
        assert 1 < len(history) == run.step - found.step + 1
        expected = by_hand(history, 0.9, True, before=found.step)
        assert all(torch.allclose(mean.double(), expected[name], atol=1e-6) for name, mean in state(run).items())


def test_of_a_checkpoint_without_an_average_its_own_weights_are_exported(tmp_path: Path) -> None:
    made = bench(decay=0.9)
    output = made.fresh("without")
    with made.run(Stopper(after=3), active=False, output=output) as run:
        trained(run)
        last = weights(run.model)
    with made.run(output=output) as run:
        found = newest(output, 1)
        assert found is not None
        load(run, found)
        exported = run.hooks.export(run=run, path=tmp_path / "model")
    assert not differing(last, weights(loaded(exported)))


def test_a_run_that_goes_on_from_an_earlier_checkpoint_exports_the_same_average(tmp_path: Path) -> None:
    write_rows(tiny_rows(60), tmp_path / "rows.jsonl")
    small = ["--bpe.vocab-size", "300", "--scratch.hidden-size", "32", "--scratch.layers", "2", "--seq-length", "32"]
    fields = ["--data", "rows.jsonl", *small, "--batch-size", "4", "--save-every", "2", "--plugin", "fp32"]
    environ = os.environ | {"HFX_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}

    def train(*words: str) -> None:
        command = [sys.executable, "-m", "hfx", "train", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environ, text=True, capture_output=True, timeout=200)
        assert done.returncode == 0, done.stderr

    train(*fields, "--steps", "6", "--output", "whole", "--plugin", "ema", "--ema.decay", "0.8")
    train(*fields, "--steps", "6", "--output", "cut", "--plugin", "ema", "--ema.decay", "0.8")
    (tmp_path / "cut" / "checkpoints" / "step-00000006" / "MANIFEST.json").unlink()  # as if it had died before it
    shutil.rmtree(tmp_path / "cut" / "model")
    train("--resume", "cut")
    ends = [weights(loaded(tmp_path / name / "model")) for name in ("whole", "cut")]
    assert not differing(*ends)
    lines = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
