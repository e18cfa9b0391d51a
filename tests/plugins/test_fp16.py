from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import hfx
from hfx import Plugin, Run, TorchBackend, hookimpl
from hfx.api import problems
from hfx.errors import IncompatibleError
from hfx.plan import plan
from hfx.resolve import resolve
from hfx.testing.bench import Bench
from hfx.testing.examples import close, collate, differing, weights
from hfx.testing.tiny import tiny_rows, write_rows
from hfx.testing.training import continues_to_the_bit, trained, weights_after
from hfx_plugins.memory.chunked_loss import ChunkedLoss
from hfx_plugins.precision.fp16 import FP16
from hfx_plugins.precision.fp32 import FP32
from tiny_models import TinyRun

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
"""As hfx does for a user: torch takes a schedule that moves on over a skipped first step for a mistake."""


class Dtypes(Plugin):
    """Looks at what a linear layer returns, in training and in evaluation."""

    @hookimpl(wrapper=True)
    def hfx_model(self, run: Run) -> Any:
        model = yield
        seen: set[tuple[bool, torch.dtype]] = run.local.setdefault(self.name, set())
        layer = next(module for module in model.modules() if isinstance(module, torch.nn.Linear))
        layer.register_forward_hook(lambda module, _, output: seen.add((module.training, output.dtype)))
        return model


class Weights(Plugin):
    """Keeps the weights after every step, and the scale."""

    @hookimpl
    def hfx_step_end(self, run: Run) -> None:
        scaler = run.precision.scaler
        run.local.setdefault(self.name, []).append((weights(run.model), scaler.get_scale() if scaler else 1.0))


def bench(config: dict[str, Any] | None = None, **options: Any) -> Bench:
    return Bench.of(FP16, options, config or {}, None)


def steps(run: Run) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run.output / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def test_a_linear_layer_returns_fp16_in_training_and_evaluation_over_fp32_weights() -> None:
    with bench().run(Dtypes()) as run:
        trained(run)

        assert run.local["dtypes"] == {(True, torch.float16), (False, torch.float16)}
        state = [value for each in run.optimizer.state.values() for value in each.values()]
        assert {tensor.dtype for tensor in [*run.model.parameters(), *state]} == {torch.float32}


def test_gradients_that_fp16_has_no_numbers_for_are_kept_by_the_scale() -> None:
    tiny = 1e-6
    norms = {}
    for scaled in (True, False):
        for factor in (1.0, tiny):
            with bench().run() as run:
                run.build()
                if not scaled:
                    run.backend.scaler = None
                with run.precision.autocast():
                    loss = run.module(collate(run, [[0], [1]]))
                run.backend.backward(loss * (factor / 100))
                norms[scaled, factor] = run.backend.step(None).norm / factor

    assert norms[True, tiny] == pytest.approx(norms[True, 1.0], rel=0.02)
    assert norms[False, tiny] < 0.5 * norms[True, tiny]


def test_a_step_that_overflows_is_skipped_and_reported_and_the_scale_is_halved() -> None:
    with bench(init_scale=2.0**20).run(Weights(), steps=10) as run:
        before = weights(run.model)
        trained(run)
        lines, after = steps(run), run.local["weights"]

    skipped = [bool(line.get("skipped")) for line in lines]
    assert skipped[0]
    assert not skipped[-1]
    scale = 2.0**20
    for skip, line, (now, scale_now) in zip(skipped, lines, after, strict=True):
        scale = scale / 2 if skip else scale
        assert line["loss_scale"] == scale_now == scale
        assert bool(differing(before, now)) != skip
        before = now


def test_the_learning_rate_and_the_counters_go_on_over_a_skipped_step() -> None:
    figures = []
    for plugin in (FP16(init_scale=2.0**20), FP32()):
        with Bench.of(type(plugin), plugin.options(), {}, None).run(steps=10) as run:
            trained(run)
            figures.append([(line["step"], line["lr"], line["epoch"], line["tokens_total"]) for line in steps(run)])

    assert figures[0] == figures[1]


def test_a_step_whose_norm_alone_overflows_is_skipped_too() -> None:
    with bench().run() as run:
        run.build()
        before = weights(run.model)
        with run.precision.autocast():
            loss = run.module(collate(run, [[0]]))
        run.backend.backward(loss)
        for parameter in run.model.parameters():
            parameter.grad = torch.full_like(parameter, 1e30)

        result = run.backend.step(1.0)

        assert result.skipped
        assert not differing(before, weights(run.model))


def test_micro_batches_add_up_to_one_batch() -> None:
    whole, cut = (weights_after(bench(), steps=4, micro_batch_size=size) for size in (4, 1))
    plain = weights_after(bench(), active=False, steps=4)

    assert all(close(whole[name], cut[name], 1e-3) for name in whole)
    assert all(close(whole[name], plain[name], 1e-3) for name in whole)


def test_a_run_whose_scale_falls_and_grows_continues_to_the_bit() -> None:
    made = bench(init_scale=2.0**20, growth_interval=1)
    with made.run(Weights()) as run:
        trained(run)
        scales = [scale for _, scale in run.local["weights"]]
    assert any(a > b for a, b in pairwise(scales))
    assert any(a < b for a, b in pairwise(scales))

    continues_to_the_bit(made)


def test_the_head_may_compute_the_loss_in_chunks() -> None:
    losses = []
    for others in ([], [ChunkedLoss(chunk=16)]):
        with bench().run(*others) as run:
            losses.append(trained(run).metrics["loss"])

    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Unscaling(Plugin):
    """A backend that knows nothing of scales."""

    @hookimpl
    def hfx_backend(self, run: Run) -> TorchBackend:
        backend = TorchBackend(run)
        backend.scaler = None
        return backend


def test_a_backend_that_does_not_scale_the_loss_is_refused_before_training() -> None:
    with (
        bench().run(Unscaling()) as run,
        pytest.raises(IncompatibleError, match="'fp16' needs a backend that scales the loss, and 'unscaling' does not"),
    ):
        run.build()


def test_updates_in_the_backward_pass_are_refused_by_name() -> None:
    plugins = {"fp16": {}, "optimizer_in_backward": {}}
    resolved = resolve(mapping={"data": "rows.txt", "max_grad_norm": None, "batch_size": 1, "plugins": plugins})

    found = [problem.message for problem in problems(resolved) if problem.fatal]

    assert [("'fp16'" in line, "'optimizer_in_backward'" in line, "--plugin bf16" in line) for line in found] == [
        (True, True, True)
    ]


# ── by the command line ──────────────────────────────────────────────────────────────────────────────────────────────


SMALL = ("--bpe.vocab-size", "300", "--scratch.hidden-size", "32", "--scratch.layers", "2", "--seq-length", "32")


@pytest.mark.slow
def test_a_run_that_goes_on_from_an_earlier_checkpoint_has_the_same_figures_and_scale(tmp_path: Path) -> None:
    write_rows(tiny_rows(60), tmp_path / "rows.jsonl")
    environ = {"HFX_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    scaled = ("--plugin", "fp16", "--fp16.init-scale", str(2**20), "--fp16.growth-interval", "1")

    def train(*words: str) -> str:
        done = hfx("train", *words, cwd=tmp_path, **environ)
        assert done.returncode == 0, done.stderr
        return done.stderr

    given = ("--data", "rows.jsonl", *SMALL, "--batch-size", "4", "--steps", "8", "--save-every", "2", *scaled)
    said = train(*given, "--output", "whole")
    assert "(fp16 over fp32 weights: asked for)" in said
    assert "UserWarning" not in said
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    last = "checkpoints/step-00000008"
    shutil.rmtree(tmp_path / "cut" / last)  # as if it had died before it
    train("--resume", "cut")

    def figures(name: str) -> list[Any]:
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        keys = ("step", "loss", "lr", "grad_norm", "skipped", "eval_loss")
        return [repr([line.get(key) for key in keys]) for line in lines]

    def scaler(name: str) -> Any:
        return json.loads((tmp_path / name / last / "state.json").read_text())["backend"]["scaler"]

    assert figures("cut") == figures("whole")
    assert any("True" in line for line in figures("whole"))
    assert scaler("cut") == scaler("whole")
    assert scaler("whole")["scale"] < 2**20


def test_a_run_can_be_planned() -> None:
    with bench().run() as run:
        planned = plan(run)
    with bench().run(active=False) as run:
        plain = plan(run)

    assert planned.peak["parameters"] == 4 * planned.parameters
    assert planned.peaks["optimizer"]["optimizer state"] == plain.peaks["optimizer"]["optimizer state"] > 0


def test_the_scale_and_its_growth_are_what_is_asked_for() -> None:
    scaler = FP16(init_scale=8.0, growth_interval=5).hfx_precision(TinyRun()).scaler

    assert (scaler.get_scale(), scaler.get_growth_interval(), scaler.is_enabled()) == (8.0, 5, True)
