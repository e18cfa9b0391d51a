from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from command_line import hfx
from hfx import ParamGroups, Plugin, hookimpl
from hfx.errors import HfxError, IncompatibleError
from hfx.testing.bench import Bench
from hfx.testing.examples import differing, weights
from hfx.testing.training import continues_to_the_bit, trained, weights_after
from hfx_plugins.memory.gradient_checkpointing import GradientCheckpointing
from hfx_plugins.memory.optimizer_in_backward import OptimizerInBackward
from hfx_plugins.optimizers.adafactor import Adafactor
from hfx_plugins.optimizers.lion import Lion
from hfx_plugins.optimizers.muon import Muon
from hfx_plugins.optimizers.sgd import Sgd

WHOLE: dict[str, Any] = {"max_grad_norm": None, "batch_size": 4, "micro_batch_size": 4}


def bench(**fields: Any) -> Bench:
    return Bench.of(OptimizerInBackward, {}, {**WHOLE, **fields}, None)


@pytest.mark.parametrize("optimizer", [None, Lion, Adafactor, Muon, Sgd])
@pytest.mark.parametrize("micro", [4, 1])
def test_updates_are_those_of_a_plain_run_to_the_bit(optimizer: Any, micro: int) -> None:
    others = [optimizer()] if optimizer else []
    both = [weights_after(bench(micro_batch_size=micro), *others, active=active, steps=3) for active in (True, False)]
    assert not differing(*both)


def test_updates_are_the_same_with_recomputed_activations() -> None:
    both = [weights_after(bench(), GradientCheckpointing(), active=active, steps=3) for active in (True, False)]
    assert not differing(*both)


def most_gradients(active: bool) -> int:
    """Return the most bytes of gradients that were held when one arrived, in two steps."""
    most = 0
    with bench(steps=2).run(active=active) as run:
        run.build()
        parameters = list(run.model.parameters())

        def look(_: torch.Tensor) -> None:
            nonlocal most
            most = max(most, sum(p.grad.nbytes for p in parameters if p.grad is not None))

        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(look)
        run.hooks.run(run=run)
        assert all(parameter.grad is None for parameter in parameters)
    return most


def test_no_more_than_one_gradient_is_held() -> None:
    with bench().run() as run:
        run.build()
        sizes = [parameter.nbytes for parameter in run.model.parameters()]
    assert most_gradients(active=False) == sum(sizes)
    assert most_gradients(active=True) <= max(sizes)


def test_the_norm_that_is_reported_is_that_of_all_gradients() -> None:
    norms = []
    for active in (True, False):
        with bench(steps=2).run(active=active) as run:
            trained(run)
            norms.append(run.last_metrics["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    assert norms[0] > 0


def test_a_resumed_run_continues_to_the_bit() -> None:
    continues_to_the_bit(bench())


def test_the_planner_sees_the_gradients_gone() -> None:
    from hfx.plan import plan

    held = {}
    for active in (True, False):
        with bench(model=None).run(active=active) as run:
            held[active] = plan(run)
    gradients = {active: max(peak.get("gradients", 0) for peak in one.peaks.values()) for active, one in held.items()}
    assert gradients[True] < gradients[False] / 2


class Counting(torch.optim.SGD):
    """Counts its steps in its groups."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
        super().step(closure)


class Counted(Plugin):
    """Brings an optimizer that counts for all parameters together."""

    @hookimpl
    def hfx_optimizer(self, params: ParamGroups) -> torch.optim.Optimizer:
        return Counting([group | {"count": 0} for group in params.groups()], lr=0.1)


def test_an_optimizer_that_counts_for_all_parameters_is_refused() -> None:
    with bench(steps=2).run(Counted()) as run, pytest.raises(IncompatibleError, match="'Counting' keeps 'count'"):
        trained(run)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_step_without_a_finite_gradient_is_skipped() -> None:
    with bench(steps=1).run() as run:
        run.build()
        run.model.get_input_embeddings().weight.data.fill_(math.nan)
        before = weights(run.model)
        run.hooks.run(run=run)
        others = [name for name in differing(before, weights(run.model)) if not before[name].isnan().any()]
    assert not others
    assert run.last_metrics["skipped"] is True


def test_a_gradient_that_is_not_finite_after_others_ends_the_run_with_the_way_out() -> None:
    with bench(steps=2).run() as run:
        run.build()
        run.model.get_input_embeddings().weight.register_hook(lambda gradient: gradient * math.nan)
        with pytest.raises(HfxError, match=r"not finite.*last checkpoint"):
            run.hooks.run(run=run)


def test_parameters_of_a_model_that_outlives_its_run_are_watched_no_more() -> None:
    with bench(steps=1).run() as run:
        trained(run)
        model = run.model
    ids = torch.tensor([[1, 2, 3]])
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_needs_all_gradients_is_refused_when_the_config_is_resolved() -> None:
    done = hfx("train", "--plugin", "optimizer_in_backward", "--dry-run")
    assert done.returncode == 2
    assert "set '--max-grad-norm none'" in done.stderr
    words = ["train", "--plugin", "optimizer_in_backward", "--max-grad-norm", "none", "--dry-run"]
    done = hfx(*words, "--plugin", "schedule_free")
    assert done.returncode == 2
    assert "'schedule_free'" in done.stderr


def test_a_step_of_several_micro_batches_is_a_warning() -> None:
    with bench(batch_size=4, micro_batch_size=2).run() as run:
        problems = run.hooks.check(run=run)
    assert [(problem.fatal, "--micro-batch-size 4" in problem.message) for problem in problems] == [(False, True)]
