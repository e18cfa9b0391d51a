from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import hfx
from hfx.errors import PluginError
from hfx.testing.bench import Bench
from hfx.testing.examples import differing
from hfx.testing.training import trained, weights_after
from hfx_plugins.memory.chunked_loss import ChunkedLoss
from hfx_plugins.memory.gradient_checkpointing import GradientCheckpointing
from hfx_plugins.models.freeze import Freeze
from hfx_plugins.tracking.monitor import Monitor
from tiny_models import tiny_llama

ADDED = {"flops_per_second", "mfu", "resident_bytes", "cpu_percent"}


def bench(**options: Any) -> Bench:
    return Bench.of(Monitor, options, {}, None)


def logged(*others: Any, rate: float = 1e12, **fields: Any) -> list[dict[str, Any]]:
    with bench(rate=rate).run(*others, log_every=1, **fields) as run:
        trained(run)
        return [json.loads(line) for line in (run.output / "metrics.jsonl").read_text().splitlines()]


def operations(line: dict[str, Any]) -> float:
    """Return the operations of a step."""
    return float(line["flops_per_second"] * (line["step_seconds"] + line["data_seconds"]))


def test_every_step_has_the_devices_figures_beside_its_own() -> None:
    lines = [line for line in logged(steps=3) if "loss" in line]
    assert [line.keys() >= ADDED for line in lines] == [True] * 3
    for line in lines:
        assert line["mfu"] == pytest.approx(line["flops_per_second"] / 1e12)
        assert line["resident_bytes"] > 100 * 2**20


def test_the_operations_are_six_for_each_weight_and_token_and_those_of_attention() -> None:
    with bench(rate=1.0).run(steps=1, batch_size=2, micro_batch_size=2, log_every=1) as run:
        trained(run)
        model, line = run.model, run.last_metrics
        tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
        weights = sum(p.numel() for name, p in model.named_parameters() if p.ndim > 1 and "embed" not in name)
        head = model.get_output_embeddings().weight.numel()
    assert tied
    # The head sees labelled positions only, padding is computed, and attention comes on top.
    found = operations(line)
    assert found > 6 * weights * line["tokens"]
    assert found < 2 * 6 * (weights + head) * line["tokens"]


def test_operations_follow_the_tokens_of_a_step() -> None:
    lines = [line for line in logged(steps=3) if "loss" in line]
    per_token = [operations(line) / line["tokens"] for line in lines]
    assert per_token == pytest.approx([per_token[0]] * 3)


def test_recomputed_activations_are_no_operations_of_the_model() -> None:
    plain, recomputed = (operations(logged(*others, steps=1)[0]) for others in ((), (GradientCheckpointing(),)))
    assert recomputed == pytest.approx(plain)


def test_a_loss_in_chunks_is_no_more_operations_than_the_plain_one() -> None:
    plain, chunked = ([operations(line) for line in logged(*o, steps=2)[:2]] for o in ((), (ChunkedLoss(),)))
    assert chunked == pytest.approx(plain)


def test_a_forward_pass_without_gradients_counts_once() -> None:
    def steps(twice: bool) -> float:
        with bench(rate=1e12).run(steps=1, log_every=1) as run:
            if twice:  # as a reference model's
                forward = run.model.forward

                def both(*args: Any, **kwargs: Any) -> Any:
                    with torch.no_grad():
                        forward(*args, **kwargs)
                    return forward(*args, **kwargs)

                run.model.forward = both
            trained(run)
            return operations(run.last_metrics)

    assert steps(twice=True) == pytest.approx(steps(twice=False) * 4 / 3)


def test_what_is_frozen_has_a_backward_pass_of_half_the_operations() -> None:
    plain, frozen = (operations(logged(*o, steps=1)[0]) for o in ((), (Freeze(only=["*norm*"]),)))
    assert frozen == pytest.approx(plain * 2 / 3)


def test_training_is_that_of_a_run_without_it_to_the_bit() -> None:
    given = {"steps": 3, "micro_batch_size": 2, "eval_every": 1}
    assert not differing(weights_after(bench(), **given), weights_after(bench(), active=False, **given))


def test_nothing_is_left_in_a_model_that_outlives_its_run() -> None:
    with bench(rate=1.0).run(steps=1) as run:
        run.build()
        module = run.module
        before = len(module._forward_hooks), len(module._forward_pre_hooks)
        run.hooks.run(run=run)
        assert (len(module._forward_hooks), len(module._forward_pre_hooks)) == before


def test_two_figures_of_one_name_are_an_error_that_names_it() -> None:
    with bench().run() as run:
        run.measure("mine", lambda _: 1.0)
        with pytest.raises(PluginError, match="two plugins add the figure 'mine'"):
            run.measure("mine", lambda _: 2.0)


def test_the_share_that_is_trained_leaves_embeddings_out() -> None:
    from hfx_plugins.tracking.monitor_impl import trained_share

    model = tiny_llama()
    assert trained_share(model) == 1
    model.lm_head.weight.requires_grad_(False)
    matrices = [p for name, p in model.named_parameters() if p.ndim > 1 and "embed" not in name]
    head = model.lm_head.weight.numel()
    assert trained_share(model) == pytest.approx(1 - head / sum(p.numel() for p in matrices))


def test_a_rate_that_is_not_given_is_measured_and_no_step_is_faster(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("\n\n".join(f"a few words of row {number}" for number in range(60)))
    words = ["train", "--data", "rows.txt", "--steps", "2", "--log-every", "1", "--output", "run", "--plugin", "fp32"]
    small = ["--scratch.hidden-size", "64", "--scratch.layers", "2", "--bpe.vocab-size", "300"]
    done = hfx(*words, *small, "--plugin", "monitor", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < line["mfu"] < 1 for line in lines if "mfu" in line)
    assert sum("mfu" in line for line in lines) == 2


def test_the_parts_of_a_step_add_up_to_it() -> None:
    for line in logged(steps=2):
        if "loss" in line:
            parts = [line[f"{name}_seconds"] for name in ("forward_backward", "sync", "optimizer")]
            assert sum(parts) == pytest.approx(line["step_seconds"])
            assert min(*parts, line["data_seconds"]) >= 0
            assert torch.isfinite(torch.tensor(parts)).all()
