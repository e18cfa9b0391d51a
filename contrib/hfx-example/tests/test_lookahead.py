"""Lookahead's arithmetic, on two numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch
from hfx_example.lookahead import Lookahead

from hfx import Run


@dataclass
class States:
    """What lookahead reads of a run."""

    state: dict[str, dict[str, Any]] = field(default_factory=lambda: defaultdict(dict))


def wrapped(plugin: Lookahead, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return what the wrapper makes of an optimizer."""
    wrapper: Generator[None, torch.optim.Optimizer, torch.optim.Optimizer] = plugin.hfx_optimizer(cast("Run", States()))
    next(wrapper)
    with pytest.raises(StopIteration) as end:
        wrapper.send(optimizer)
    return cast("torch.optim.Optimizer", end.value.value)


def trained(plugin: Lookahead | None, steps: int, optimizer_class: Any = torch.optim.SGD) -> list[float]:
    """Return the weights after some steps down the slope `1 * x + 2 * y` from zero."""
    weights = torch.nn.Parameter(torch.zeros(2))
    optimizer: torch.optim.Optimizer = optimizer_class([weights], lr=1.0)
    optimizer = wrapped(plugin, optimizer) if plugin else optimizer
    for _ in range(steps):
        weights.grad = torch.tensor([1.0, 2.0])
        optimizer.step()
    found: list[float] = weights.detach().tolist()
    return found


def test_every_third_step_the_weights_go_back_half_of_the_way() -> None:
    plugin = Lookahead(every=3, pull=0.5)
    assert trained(plugin, 2) == [-2.0, -4.0]
    # Slow weights begin at -1 after the first step; step 3 is at -3, so both meet at -2.
    assert trained(plugin, 3) == [-2.0, -4.0]
    # Three steps on from -2 is -5; they meet half of the way from -2.
    assert trained(plugin, 6) == [-3.5, -7.0]


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adafactor])
def test_a_pull_of_one_changes_nothing(optimizer: Any) -> None:
    assert trained(Lookahead(every=2, pull=1.0), 5, optimizer) == trained(None, 5, optimizer)


def test_the_optimizer_stays_what_it_is() -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])
    assert wrapped(Lookahead(), optimizer) is optimizer


def test_a_parameter_without_gradient_is_left_alone() -> None:
    used, idle = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = wrapped(Lookahead(every=1), torch.optim.AdamW([used, idle]))
    used.grad = torch.ones(2)
    optimizer.step()
    assert idle not in optimizer.state
    idle.grad = torch.ones(2)
    optimizer.step()
    assert "exp_avg" in optimizer.state[idle]
