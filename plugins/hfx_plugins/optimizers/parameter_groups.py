"""Learning rates and weight decay for some of the parameters, and less of both towards the input.

Layer-wise decay is that of https://arxiv.org/abs/1801.06146 (ULMFiT) and https://arxiv.org/abs/2003.10555 (ELECTRA).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeFloat

from hfx import ParamGroups, Plugin, Problem, hookimpl

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hfx import PlainScript, Run


class ParameterGroups(Plugin):
    """Give parameters learning rates and weight decay of their own, by patterns of names or by depth.

    Works with every optimizer that has these options. A pattern (`*` any text, `?` one character, `[01]` one of some)
    is compared with whole names of parameters, as `model.layers.0.mlp.up_proj.weight`; one that fits a module means all
    of it. Of several that fit, the last one counts. Parameters that are tied are one, under any of their names.
    """

    lr: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    """Factors of the optimizer's learning rate by pattern: `{"*embed_tokens": 0.1, "score": 10}`."""
    weight_decay: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    """Weight decay by pattern, in place of the optimizer's: `{"*embed_tokens": 0}`."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor of the learning rate from each layer to the one below it; embeddings are below the first one."""

    @hookimpl
    def hfx_check(self) -> Iterator[Problem]:
        """Report options that change nothing."""
        if not self.lr and not self.weight_decay and self.layer_decay == 1:
            yield Problem(
                "'parameter_groups' is active and changes nothing; give 'parameter_groups.lr', "
                "'parameter_groups.weight_decay' or 'parameter_groups.layer_decay'"
            )

    @hookimpl(wrapper=True)
    def hfx_optimizer(self, params: ParamGroups, run: Run) -> Generator[None, Optimizer, Optimizer]:
        """Return the optimizer with its groups split.

        Raises:
            ConfigError: a pattern fits no parameter that is trained.
            IncompatibleError: the optimizer has no such option, or the model has no layers.
        """
        from hfx_plugins.optimizers.parameter_groups_impl import refine

        optimizer = yield
        refine(optimizer, params, run.model, self)
        return optimizer

    @hookimpl
    def hfx_eject(self, script: PlainScript) -> None:
        """Say nothing more: the groups are the optimizer's."""
