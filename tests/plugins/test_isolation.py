"""Models that keep packed examples apart compute what they compute for each alone; others are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hfx import Plugin, Run, hookimpl
from hfx.errors import IncompatibleError
from hfx_plugins.batching.isolation_impl import check_isolation
from hfx_plugins.batching.packing import Packing

torch.set_num_threads(1)

APART = ("llama", "qwen3", "gpt2", "mistral", "gpt_neox", "mixtral")
TOGETHER = ("bert", "opt", "bloom", "roberta")
ATTENTION = ("sdpa", "eager")


@pytest.fixture
def opened(make_run, tmp_path):
    """Return a run of an architecture in which packing is active, not started."""
    lines = [json.dumps({"text": " ".join(f"w{n * k}" for k in range(1 + n * 7 % 23))}) for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))

    def open_run(architecture: str, attention: str = "sdpa", *others: Plugin, **chosen: Any) -> Run:
        small = {"architecture": architecture, "hidden_size": 32, "layers": 2, "heads": 4}
        plugins = {"scratch": small, "bpe": {"vocab_size": 300}, "fp32": {}, "no:progress": {}, **chosen}
        usual = {"data": str(tmp_path / "rows.jsonl"), "seq_length": 64, "batch_size": 4, "steps": 2}
        run: Run = make_run(Packing(), *others, **usual, plugins=plugins)
        run.build()
        run.model.set_attn_implementation(attention)
        return run

    return open_run


def loss_and_gradients(run: Run, sequences: list[list[int]]) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the summed loss and its gradients, the model's weights so large that positions do look at each other."""
    table = run.table("train")
    drawn = [[run.task.draw(table.values(row), None) for row in sequence] for sequence in sequences]
    run.model.zero_grad()
    loss = run.task.loss(run.model, run.batcher.collate(drawn))
    loss.backward()
    return float(loss.detach()), {
        name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None
    }


def amplify(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("architecture", APART)
def test_packed_loss_and_gradients_are_those_of_the_examples_alone(architecture, attention, opened):
    run = opened(architecture, attention)
    assert run.model.config._attn_implementation == attention
    run.model.eval()
    amplify(run.model)
    batch = next(run.order.batches(run.position))
    packed = [sequence.rows.tolist() for sequence in batch.sequences]
    assert max(map(len, packed)) > 2
    loss, gradients = loss_and_gradients(run, packed)
    alone, expected = loss_and_gradients(run, [[row] for rows in packed for row in rows])
    assert loss == pytest.approx(alone, rel=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        difference = (gradient - expected[name]).norm() / expected[name].norm().clamp_min(1e-6)
        assert difference < 1e-5, f"{name}: {difference}"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("architecture", APART)
def test_a_model_that_keeps_examples_apart_is_accepted(architecture, attention, precision, opened):
    chosen = {precision: {}} if precision == "fp32" else {"no:fp32": {}, "bf16": {}}
    check_isolation(opened(architecture, attention, **chosen))


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("architecture", TOGETHER)
def test_a_model_whose_examples_see_each_other_is_refused_by_name(architecture, attention, opened):
    run = opened(architecture, attention)
    with pytest.raises(IncompatibleError, match=f"in a '{architecture}' model .*; add '--plugin no:packing'$"):
        run.hooks.run(run=run)
    assert run.step == 0


class Cached(Plugin):
    """A task that calls its model with a cache, through which packed examples see each other."""

    @hookimpl(wrapper=True)
    def hfx_task(self) -> Any:
        task = yield

        def loss(model: Any, batch: dict[str, torch.Tensor], metrics: Any = None) -> torch.Tensor:
            return model(**{name: batch[name] for name in ("input_ids", "position_ids")}).logits.sum()

        task.loss = loss
        return task


def test_a_task_that_calls_its_model_with_a_cache_is_refused(opened):
    with pytest.raises(IncompatibleError, match="packed documents see each other in a 'llama' model"):
        check_isolation(opened("llama", "sdpa", Cached()))


class OneLine(torch.nn.Module):
    """A model that is told no positions."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return input_ids


def test_a_model_that_takes_no_positions_is_refused(opened):
    run = opened("llama")
    run._parts["model"] = OneLine(run.model.config)
    with pytest.raises(IncompatibleError, match="a 'llama' model takes no 'position_ids'"):
        check_isolation(run)


class Elsewhere(Plugin):
    """A task that computes its loss without calling the model."""

    @hookimpl(wrapper=True)
    def hfx_task(self) -> Any:
        task = yield
        task.loss = lambda model, batch, metrics=None: model.get_input_embeddings()(batch["input_ids"]).sum()
        return task


def test_a_model_that_cannot_be_looked_at_is_refused(opened):
    with pytest.raises(IncompatibleError, match="cannot be seen, because the task does not call it as a whole"):
        check_isolation(opened("llama", "sdpa", Elsewhere()))


def test_an_attention_that_looks_at_no_positions_is_refused_with_what_to_put_in_its_place(opened):
    AttentionInterface.register("no_mask", sdpa_attention_forward)  # as flash attention treats several packed sequences
    said = "with 'no_mask' attention; add '--plugin no:packing', or '--pretrained.attn_implementation sdpa'"
    with pytest.raises(IncompatibleError, match=said):
        check_isolation(opened("llama", "no_mask"))


def test_the_check_leaves_random_state_modes_gradients_and_position_alone(opened):
    run = opened("gpt2")
    before = torch.get_rng_state(), {name: p.clone() for name, p in run.model.named_parameters()}, run.position
    check_isolation(run)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(torch.equal(p, before[1][name]) and p.grad is None for name, p in run.model.named_parameters())
    assert run.position == before[2]
    assert all(module.training for module in run.module.modules())
    assert not any(module._forward_hooks for module in run.module.modules())


@pytest.mark.parametrize("rows", [["one row and no other"], ["a", "b"]])
def test_the_smallest_data_can_be_checked(rows, make_run, tmp_path):
    (tmp_path / "few.jsonl").write_text("\n".join(json.dumps({"text": row}) for row in rows))
    small = {"scratch": {"hidden_size": 32, "layers": 1}, "bpe": {"vocab_size": 260}, "fp32": {}, "no:progress": {}}
    run = make_run(Packing(), data=str(tmp_path / "few.jsonl"), plugins=small, seq_length=8, steps=1, eval_share=0)
    run.build()
    run.output.mkdir()
    assert run.hooks.run(run=run).step == 1
