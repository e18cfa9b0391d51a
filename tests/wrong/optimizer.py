"""Optimizers that are wrong."""

from __future__ import annotations

from typing import Any

from hfx import Plugin, hookimpl


class OneGroup(Plugin):
    """Ignores the groups: norms and biases decay too."""

    weight_decay: float = 0.1
    """Decay."""

    @hookimpl
    def hfx_optimizer(self, params: Any) -> Any:
        from torch.optim import AdamW

        return AdamW([parameter for _, parameter in params], lr=1e-3, weight_decay=self.weight_decay)


class FixedRate(Plugin):
    """Goes by the learning rate that it began with."""

    @hookimpl
    def hfx_optimizer(self, params: Any) -> Any:
        import torch

        class Fixed(torch.optim.SGD):
            def step(self, closure: Any = None) -> None:
                for group in self.param_groups:
                    for parameter in group["params"]:
                        if parameter.grad is not None:
                            parameter.data.sub_(parameter.grad, alpha=1e-2)

        return Fixed(params.groups(), lr=1e-2)


class FirstRate(Plugin):
    """Goes by the learning rate of the first group."""

    @hookimpl
    def hfx_optimizer(self, params: Any) -> Any:
        import torch

        class First(torch.optim.SGD):
            def step(self, closure: Any = None) -> None:
                rates = [group["lr"] for group in self.param_groups]
                for group in self.param_groups:
                    group["lr"] = rates[0]
                super().step(closure)
                for group, rate in zip(self.param_groups, rates, strict=True):
                    group["lr"] = rate

        return First(params.groups(), lr=1e-2)


class Forgetful(Plugin):
    """Keeps its momentum where no checkpoint looks."""

    @hookimpl
    def hfx_optimizer(self, params: Any) -> Any:
        import torch

        class Hidden(torch.optim.SGD):
            def step(self, closure: Any = None) -> None:
                held = self.__dict__.setdefault("momentum", {})
                for group in self.param_groups:
                    for parameter in group["params"]:
                        if parameter.grad is not None:
                            held[parameter] = parameter.grad + 0.9 * held.get(parameter, 0)
                            parameter.data.sub_(held[parameter], alpha=group["lr"])

        return Hidden(params.groups(), lr=1e-2)


class MatricesOnly(Plugin):
    """Leaves norms and biases out."""

    @hookimpl
    def hfx_optimizer(self, params: Any) -> Any:
        from torch.optim import SGD

        return SGD(params.groups()[:1], lr=1e-2)


class Undecided(Plugin):
    """Has an option that reaches nobody."""

    weight_decay: float = 0.1
    """Decay of matrices."""

    @hookimpl
    def hfx_optimizer(self, params: Any) -> Any:
        from torch.optim import AdamW

        return AdamW(params.groups(weight_decay=0.0), lr=1e-3)


_CHANGES = "a step changes every parameter"
_ZERO = "a zero learning rate changes nothing"
_OWN = "each group has its own learning rate"
_STATE = "its state continues to the bit"
WRONG = {
    OneGroup: {"norms and biases do not decay"},
    FixedRate: {_ZERO, "half the learning rate makes half a step", _OWN},
    FirstRate: {_OWN},
    Forgetful: {_STATE},
    MatricesOnly: {_CHANGES, "every parameter is in one group", _OWN, _STATE},
    Undecided: {"groups that decay shrink"},
}
