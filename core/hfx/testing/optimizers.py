"""What is asked of an optimizer, and of what wraps one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hfx.params import ParamGroups
from hfx.run import Run
from hfx.testing.bench import Bench
from hfx.testing.examples import differing, weights
from hfx.testing.training import continues_to_the_bit
from hfx.testing.witnesses import OptimizerWitness

if TYPE_CHECKING:
    from torch.optim import Optimizer


def _optimizer(run: Run) -> Optimizer:
    run.model.to(run.device)
    return run.hooks.optimizer(params=ParamGroups(run.model), run=run)


def _step(run: Run, optimizer: Optimizer, size: float = 0.1, seed: int = 0) -> dict[str, torch.Tensor]:
    """Take a step along random gradients (or zero ones) and return the weights after it."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in run.model.parameters():
        noise = torch.randn(parameter.shape, generator=generator) * size
        parameter.grad = noise.to(parameter) if parameter.requires_grad else None
    optimizer.step()
    return weights(run.model)


def a_step_changes_every_parameter(bench: Bench) -> None:
    """Three steps do, and leave numbers."""
    with bench.run() as run:
        optimizer, before = _optimizer(run), weights(run.model)
        for seed in range(3):
            after = _step(run, optimizer, seed=seed)
        unchanged = [name for name in before if torch.equal(before[name], after[name])]
        assert not unchanged, f"after three steps {unchanged[0]} and {len(unchanged) - 1} more are as before"
        broken = [name for name, tensor in after.items() if not bool(torch.isfinite(tensor).all())]
        assert not broken, f"after three steps {broken[0]} is not finite"


def every_parameter_is_in_one_group(bench: Bench) -> None:
    """One in two groups is updated twice, one in none never."""
    with bench.run() as run:
        groups = _optimizer(run).param_groups
        held = [id(parameter) for group in groups for parameter in group["params"]]
        wanted = [id(parameter) for _, parameter in ParamGroups(run.model)]
        assert len(held) == len(set(held)), "a parameter is in more than one group"
        assert set(held) == set(wanted), "the groups do not hold exactly the trainable parameters"


def norms_and_biases_do_not_decay(bench: Bench) -> None:
    """Along zero gradients only decay moves a parameter: the groups of `params.groups` spare vectors."""
    with _decaying(bench).run() as run:
        optimizer, before = _optimizer(run), weights(run.model)
        after = _step(run, optimizer, size=0.0)
        moved = [name for name in differing(before, after) if before[name].ndim <= 1]
        assert not moved, f"{moved[0]} decays and is no matrix; take the groups of `params.groups(weight_decay=...)`"


def groups_that_decay_shrink(bench: Bench) -> None:
    """An option `weight_decay` does what it says, to those groups that have it."""
    with _decaying(bench).run() as run:
        optimizer, before = _optimizer(run), weights(run.model)
        names = {id(parameter): name for name, parameter in run.model.named_parameters()}
        after = _step(run, optimizer, size=0.0)
        decays = {
            names[id(p)]: group.get("weight_decay", 0) > 0 for group in optimizer.param_groups for p in group["params"]
        }
        if "weight_decay" in bench.plugin_class.model_fields:
            assert any(decays.values()), "the option 'weight_decay' reaches no group"
        for name, does in decays.items():
            shrinks = bool(after[name].norm() < before[name].norm())
            assert shrinks == does, f"{name} {'shrinks' if shrinks else 'does not shrink'} and its group says otherwise"


def _decaying(bench: Bench) -> Bench:
    if "weight_decay" not in bench.plugin_class.model_fields:
        return bench
    return bench.with_options(weight_decay=0.1)


def a_zero_learning_rate_changes_nothing(bench: Bench) -> None:
    """The learning rate is read from the groups, where the schedule writes it."""
    with bench.run() as run:
        optimizer, before = _optimizer(run), weights(run.model)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        moved = differing(before, _step(run, optimizer))
        assert not moved, f"{moved[0]} changes although the learning rate of every group is 0"


def half_the_learning_rate_makes_half_a_step(bench: Bench) -> None:
    """Within a fifth, so that an optimizer may do something of its own with it."""
    whole, half = _length_of_step(bench, 1.0), _length_of_step(bench, 0.5)
    assert 0.4 < half / whole < 0.6, f"with half the learning rate a step is {half / whole:.2f} times as long"


def _length_of_step(bench: Bench, factor: float) -> float:
    with bench.run() as run:
        optimizer, before = _optimizer(run), weights(run.model)
        for group in optimizer.param_groups:
            group["lr"] *= factor
        after = _step(run, optimizer)
        return sum(float((after[name] - before[name]).double().norm()) for name in before)


def each_group_has_its_own_learning_rate(bench: Bench) -> None:
    """A group whose learning rate is 0 stays, and the others move."""
    with bench.run() as run:
        optimizer, before = _optimizer(run), weights(run.model)
        names = {id(parameter): name for name, parameter in run.model.named_parameters()}
        last = {names[id(parameter)] for parameter in optimizer.param_groups[-1]["params"]}
        others = before.keys() - last
        optimizer.param_groups[-1]["lr"] = 0.0
        moved = set(differing(before, _step(run, optimizer)))
        assert not moved & last, f"{min(moved & last)} changes although the learning rate of its group is 0"
        assert not others - moved, f"{min(others - moved)} does not change, whose group has a learning rate"


def its_state_continues_to_the_bit(bench: Bench) -> None:
    """Saved by parameter name, as tensors and JSON values, and restored into a new one."""
    continues_to_the_bit(bench)


def shares_state_and_groups_with_what_it_wraps(bench: Bench) -> None:
    """The schedule writes into the groups, and checkpoints hold the state."""
    witness = OptimizerWitness()
    with bench.run(before=[witness]) as run:
        wrapped = _optimizer(run)
        inner: Optimizer = run.local[witness.name]
        _step(run, wrapped)
        assert wrapped.param_groups is inner.param_groups, "the wrapper has other `param_groups` than what it wraps"
        assert wrapped.state is inner.state, "the wrapper has another `state` than what it wraps"


OPTIMIZER = (
    a_step_changes_every_parameter,
    every_parameter_is_in_one_group,
    norms_and_biases_do_not_decay,
    groups_that_decay_shrink,
    a_zero_learning_rate_changes_nothing,
    half_the_learning_rate_makes_half_a_step,
    each_group_has_its_own_learning_rate,
    its_state_continues_to_the_bit,
)
WRAPPER = (
    shares_state_and_groups_with_what_it_wraps,
    a_step_changes_every_parameter,
    every_parameter_is_in_one_group,
    a_zero_learning_rate_changes_nothing,
    its_state_continues_to_the_bit,
)
