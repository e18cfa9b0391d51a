from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from schedulefree import AdamWScheduleFree
from transformers import AutoModelForCausalLM

from hfx import ParamGroups, Plugin, Run
from hfx.api import problems
from hfx.errors import IncompatibleError
from hfx.resolve import resolve
from hfx_plugins.batching.padding import Padding
from hfx_plugins.models.scratch import Scratch
from hfx_plugins.optimizers.schedule_free import ScheduleFree
from hfx_plugins.precision.fp32 import FP32
from hfx_plugins.schedules.constant import Constant
from hfx_plugins.tokenizers.bpe import Bpe
from tiny_models import TinyRun, decayed, losses, tiny_llama

PLUGIN = ScheduleFree(lr=5e-3, beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=0.3)


@dataclass(frozen=True)
class RunOf(TinyRun):
    """A run that has built its model, and how far it is."""

    model: Any = None
    step: int = 20
    stopping: bool = False
    entered: ExitStack = field(default_factory=ExitStack)

    def enter(self, manager: AbstractContextManager[Any]) -> Any:
        return self.entered.enter_context(manager)


def optimizer_of(run: RunOf) -> torch.optim.Optimizer:
    return PLUGIN.hfx_optimizer(ParamGroups(run.model), run)


def library(model: torch.nn.Module) -> AdamWScheduleFree:
    optimizer = AdamWScheduleFree(decayed(model, 0.3), lr=5e-3, betas=(0.8, 0.95), eps=1e-6)
    optimizer.train()
    return optimizer


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, *seeds: int) -> None:
    """Take a step along random gradients for each seed."""
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# ── the optimizer ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_trains_exactly_as_the_library_does() -> None:
    ours = losses(lambda model: optimizer_of(RunOf(model=model)))

    assert ours == losses(library)
    assert ours[-1] != ours[0]


def test_a_constant_schedule_that_warms_up_is_the_warmup_of_the_library() -> None:
    model, other = tiny_llama(), tiny_llama()
    optimizer = optimizer_of(RunOf(model=model))
    schedule = Constant(warmup=3).hfx_schedule(optimizer, TinyRun(total_steps=6))
    theirs = AdamWScheduleFree(decayed(other, 0.3), lr=5e-3, betas=(0.8, 0.95), eps=1e-6, warmup_steps=3)
    theirs.train()

    for seed in range(6):
        step(model, optimizer, seed)
        schedule.step()
        step(other, theirs, seed)

    assert equal(weights(model), weights(other))


def test_in_evaluation_mode_the_model_has_the_averages_and_then_its_own_weights_to_the_bit() -> None:
    model, other = tiny_llama(), tiny_llama()
    run = RunOf(model=model)
    optimizer, theirs = optimizer_of(run), library(other)
    model.train()
    step(model, optimizer, 1, 2, 3)
    step(other, theirs, 1, 2, 3)
    trained = weights(model)

    model.eval()
    averaged = weights(model)
    model.eval()
    twice = weights(model)
    model.train()

    theirs.eval()
    assert equal(averaged, weights(other))
    assert equal(averaged, twice)
    assert not equal(averaged, trained)
    assert equal(weights(model), trained)
    assert {key for state in optimizer.state.values() for key in state} == {"z", "exp_avg_sq"}
    step(model, optimizer, 4)


def test_a_copy_of_the_model_does_not_move_the_weights_of_the_first() -> None:
    model = tiny_llama()
    run = RunOf(model=model)
    optimizer = optimizer_of(run)
    step(model, optimizer, 1, 2)
    trained = weights(model)

    copied = copy.deepcopy(model).eval()

    assert equal(weights(model), trained)
    assert equal(weights(copied), trained)


@pytest.mark.parametrize(("ended", "averaged"), [({"step": 20}, True), ({"stopping": True}, True), ({}, False)])
def test_a_model_that_outlives_its_run_has_the_averages_where_the_run_ended_well(
    ended: dict[str, Any], averaged: bool
) -> None:
    model, other = tiny_llama(), tiny_llama()
    run = RunOf(**{"model": model, "step": 3, **ended})
    step(model, optimizer_of(run), 1, 2, 3)
    theirs = library(other)
    step(other, theirs, 1, 2, 3)
    if averaged:
        theirs.eval()

    with run.entered:
        pass

    assert equal(weights(model), weights(other))
    assert [name for name, _ in model.named_modules()] == [name for name, _ in tiny_llama().named_modules()]


def test_an_engine_that_trains_copies_of_the_parameters_is_refused() -> None:
    model = tiny_llama()
    run = RunOf(model=model)
    optimizer = optimizer_of(run)
    flat = torch.nn.Parameter(torch.cat([p.detach().flatten() for p in optimizer.param_groups[0]["params"]]))
    optimizer.param_groups[0]["params"] = [flat]

    with pytest.raises(IncompatibleError, match=r"the backend holds them in parts; .*'--plugin adamw'"):
        model.train()


# ── in a run ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def run_of(make_run: Callable[..., Run], tmp_path: Path) -> Callable[..., Run]:
    text = tmp_path / "rows.txt"
    text.write_text("\n\n".join(f"the {number} quick foxes jump " * (1 + number % 3) for number in range(40)))

    def make(*others: Plugin, **fields: Any) -> Run:
        run = make_run(
            PLUGIN, Constant(warmup=2), Scratch(hidden_size=32, layers=2), Bpe(vocab_size=300), Padding(), FP32(),
            *others, **{"data": str(text), "steps": 6, "batch_size": 4, "seq_length": 24, "eval_share": 0.2, **fields},
        )  # fmt: skip
        run.output.mkdir(exist_ok=True)
        run.build()
        return run

    return make


def test_an_evaluation_is_one_of_the_averages_and_changes_nothing(run_of: Callable[..., Run]) -> None:
    run = run_of()
    for batch in run.batches():
        run.train_step(batch)
        trained = weights(run.model)
        figures = run.evaluate()
        assert equal(weights(run.model), trained)

    run.optimizer.eval()  # the weights are the averages now, whatever mode the model is in
    assert run.evaluate()["eval_loss"] == figures["eval_loss"]


def test_what_is_exported_is_the_average_and_the_run_could_go_on(run_of: Callable[..., Run], tmp_path: Path) -> None:
    run = run_of()
    run.hooks.run(run=run)
    trained = weights(run.model)

    run.hooks.export(run=run, path=tmp_path / "model")

    assert equal(weights(run.model), trained)
    assert run.model.training
    run.optimizer.eval()
    exported = dict(AutoModelForCausalLM.from_pretrained(tmp_path / "model").named_parameters())
    assert all(torch.equal(exported[name], p) for name, p in run.model.named_parameters())
    assert not equal(weights(run.model), trained)


def test_a_checkpoint_that_was_saved_within_an_evaluation_goes_on_from_the_weights_before(
    run_of: Callable[..., Run],
) -> None:
    from hfx.checkpoint import newest

    run = run_of()
    run.train_step(next(iter(run.batches())))
    trained = weights(run.model)
    run.module.eval()
    run.save()
    run.close()

    again = run_of()
    found = newest(again.output, 1)
    assert found is not None
    again.restore(found)
    again.module.eval()
    again.module.train()

    assert equal(weights(again.model), trained)


def test_a_falling_schedule_is_refused_with_the_way_out() -> None:
    given = {"data": "rows.txt", "plugins": {"schedule_free": {}}}

    found = [problem.message for problem in problems(resolve(mapping=given))]

    assert found == [
        "'schedule_free' averages weights instead of lowering the learning rate, and the schedule is 'cosine'; "
        "add '--plugin constant'"
    ]
    given["plugins"] = {"schedule_free": {}, "constant": {}}
    assert problems(resolve(mapping=given)) == []


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    given = {"data": "rows.txt", "plugins": {"schedule_free": {}, "constant": {}}}

    found = [problem.message for problem in problems(resolve(mapping=given))]

    assert found == ["'schedule_free' needs the package schedulefree; pip install 'hfx[schedule_free]'"]


@pytest.mark.parametrize(
    "option", [{"lr": 0}, {"beta1": 0}, {"beta1": 1}, {"beta2": 1}, {"eps": 0}, {"weight_decay": -1}]
)
def test_an_option_out_of_range_is_refused(option: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        ScheduleFree(**option)
