"""Which parameters patterns mean, and that something is left to train."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfx.errors import IncompatibleError
from hfx.patterns import check_patterns, fits

if TYPE_CHECKING:
    from torch import nn

    from hfx_plugins.models.freeze import Freeze


def freeze(model: nn.Module, options: Freeze) -> None:
    """Let the parameters that the options mean require no gradient; those that are frozen already stay so.

    Raises:
        ConfigError: a pattern fits no parameter.
        IncompatibleError: nothing is left to train.
    """
    named = list(model.named_parameters(remove_duplicate=False))
    option = "only" if options.only else "names"
    patterns = options.only or options.names
    check_patterns(f"freeze.{option}", patterns, [name for name, _ in named])
    meant = {parameter for name, parameter in named if any(fits(name, pattern) for pattern in patterns)}
    for parameter in model.parameters():
        if (parameter in meant) != bool(options.only):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise IncompatibleError(f"'freeze.{option}' leaves no parameter to train; give patterns that leave some")
