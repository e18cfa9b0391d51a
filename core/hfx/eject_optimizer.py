"""A run's optimizer and schedule as code, read off the objects themselves: whoever's plugin made them."""

from __future__ import annotations

import ast
import inspect
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from hfx.errors import IncompatibleError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from hfx.run import Run

_NOT_OPTIONS = {"params", "lr", "initial_lr"}
MATRICES = "[p for p in model.parameters() if p.requires_grad and p.ndim > 1]"
OTHERS = "[p for p in model.parameters() if p.requires_grad and p.ndim <= 1]"
ALL = "[p for p in model.parameters() if p.requires_grad]"


@dataclass(frozen=True)
class OptimizerCode:
    """An optimizer as code."""

    imports: str
    name: str
    groups: list[str]
    """Each group as the source of a mapping."""
    arguments: list[str]
    """What is given beside the groups: `lr=0.001`."""
    names: list[list[str]] | None
    """The parameters of each group by name, where no rule tells them apart."""


def optimizer_code(run: Run) -> OptimizerCode:
    """Return the run's optimizer as code.

    Raises:
        IncompatibleError: its class is that of a plugin, which a plain script does without.
    """
    optimizer = run.optimizer
    kind = type(optimizer)
    maker = next(a for a in run.active if a.name == run.resolved.roles["optimizer"].plugin)
    home = kind.__module__.partition(".")[0]
    if home in ("hfx", "hfx_plugins", type(maker.plugin).__module__.partition(".")[0]):
        raise IncompatibleError(
            f"the optimizer of '{maker.name}' is a class of its own ('{kind.__name__}'), which a script without hfx "
            "has not; train with 'adamw', 'lion', 'adafactor' or 'sgd' to eject"
        )
    taken = inspect.signature(kind.__init__).parameters
    given = {"lr": optimizer.defaults["lr"]} | {
        name: value
        for name, value in optimizer.defaults.items()
        if name in taken and name != "lr" and value != taken[name].default
    }
    found = [_options(group, optimizer.defaults) for group in optimizer.param_groups]
    for options in (given, *found):
        _refuse_objects(maker.name, options)
    rules = _rules(run.model, optimizer)
    sources = rules or [f"[named[name] for name in GROUPS[{index}]]" for index in range(len(found))]
    groups = [
        "{" + ", ".join([f'"params": {source}', *(f'"{name}": {value!r}' for name, value in options.items())]) + "}"
        for source, options in zip(sources, found, strict=True)
    ]
    names = None if rules else _names(run.model, optimizer)
    arguments = [f"{name}={value!r}" for name, value in given.items()]
    return OptimizerCode(_import(kind), kind.__name__, groups, arguments, names)


def _options(group: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return what a group has of its own; its learning rate is the one before the schedule's first share of it."""
    own = {
        name: value
        for name, value in group.items()
        if name not in _NOT_OPTIONS and (name not in defaults or value != defaults[name])
    }
    lr = group.get("initial_lr", group["lr"])
    return own | ({"lr": float(lr)} if lr != defaults["lr"] else {})


def _refuse_objects(name: str, options: dict[str, Any]) -> None:
    for option, value in options.items():
        try:
            same = ast.literal_eval(repr(value)) == value
        except (ValueError, SyntaxError):
            same = False
        if not same:
            raise IncompatibleError(
                f"the optimizer of '{name}' has an option '{option}' that cannot be written down ({value!r}); train "
                "with 'adamw', 'lion', 'adafactor' or 'sgd' to eject"
            )


def _rules(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """Return the parameters of each group as code, where the number of dimensions decides; else nothing."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices, others = ({id(p) for p in trained if (p.ndim > 1) is many} for many in (True, False))
    held = [{id(p) for p in group["params"]} for group in optimizer.param_groups]
    known = {frozenset(matrices): MATRICES, frozenset(others): OTHERS, frozenset(matrices | others): ALL}
    found = [known.get(frozenset(group), "") for group in held]
    return found if all(found) and sum(map(len, held)) == len(trained) else []


def _names(model: nn.Module, optimizer: Optimizer) -> list[list[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]


def _import(kind: type) -> str:
    """Return the shortest import of a class that works."""
    parts = kind.__module__.split(".")
    for end in range(1, len(parts) + 1):
        home = ".".join(parts[:end])
        if getattr(sys.modules.get(home), kind.__name__, None) is kind:
            return f"from {home} import {kind.__name__}"
    raise IncompatibleError(
        f"the optimizer's class '{kind.__name__}' is not to be imported from '{kind.__module__}'; choose another "
        "optimizer"
    )


def learning_rates(run: Run) -> list[float]:
    """Return the learning rate of every step as a share of the optimizer's own.

    The run's schedule is stepped to its end: nobody trains with it any more.

    Raises:
        IncompatibleError: the schedule changes something else, too, or groups in different ways.
    """
    optimizer, schedule = run.optimizer, run.schedule
    base = [float(group["initial_lr"]) for group in optimizer.param_groups]
    before = [_others(group) for group in optimizer.param_groups]
    shares: list[float] = []
    for _ in range(run.total_steps):
        found = [float(group["lr"]) / own for group, own in zip(optimizer.param_groups, base, strict=True) if own]
        shares.append(found[0])
        if max(found) - min(found) > 1e-9 or [_others(group) for group in optimizer.param_groups] != before:
            name = run.resolved.roles["schedule"].plugin
            raise IncompatibleError(
                f"the schedule '{name}' changes more than one learning rate for all, which a plain script does not; "
                "choose another schedule to eject"
            )
        schedule.step()
    return shares


def _others(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in _NOT_OPTIONS and not torch.is_tensor(value)}
