"""bf16 under autocast, whose linear layers multiply in fp8."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from hfx.errors import IncompatibleError
from hfx.patterns import check_patterns, fits
from hfx_plugins.precision.precision_impl import PlainPrecision

if TYPE_CHECKING:
    from hfx import Run
    from hfx_plugins.precision.fp8 import FP8

MULTIPLE = 16
"""What the sizes of a product in fp8 have to be multiples of."""


@dataclass
class Float8Precision(PlainPrecision):
    """bf16, and fp8 in the linear layers of a model that suit it."""

    options: FP8 = field(kw_only=True)

    @classmethod
    def of(cls, run: Run, options: FP8) -> Self:
        """Return fp8 on the run's device."""
        how = "emulated" if options.emulate else "asked for"
        return cls(
            run.device, f"fp8 products ({options.recipe}), bf16 beside them: {how}", compute=torch.bfloat16,
            options=options,
        )  # fmt: skip

    def convert(self, model: nn.Module) -> nn.Module:
        """Return the model with its linear layers in fp8, but for the head and those whose sizes do not suit.

        Raises:
            ConfigError: a pattern of `fp8.skip` fits no linear layer.
            IncompatibleError: no layer is left to be in fp8.
        """
        return convert(model, self.options)


def convert(model: nn.Module, options: FP8) -> nn.Module:
    """Swap the linear layers of a model that suit fp8, in place, and return it; parameters keep their names."""
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    linear = {f"{name}.weight": m for name, m in model.named_modules() if type(m) is nn.Linear and m is not head}
    check_patterns("fp8.skip", options.skip, list(linear))
    chosen = {
        id(module)
        for name, module in linear.items()
        if not any(fits(name, pattern) for pattern in options.skip)
        and module.in_features % MULTIPLE == 0
        and module.out_features % MULTIPLE == 0
    }
    if not chosen:
        raise IncompatibleError(
            f"'fp8' finds no linear layer whose sizes are multiples of {MULTIPLE} beside the head and what "
            "'fp8.skip' names; use '--plugin bf16'"
        )
    config = Float8LinearConfig.from_recipe_name(options.recipe)
    # Batches have any number of tokens, and one product of the backward pass sums over them.
    config = replace(config, emulate=options.emulate, pad_inner_dim=True)
    convert_to_float8_training(model, config=config, module_filter_fn=lambda module, _: id(module) in chosen)
    return model
