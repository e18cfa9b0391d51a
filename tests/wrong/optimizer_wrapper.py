"""Wrappers of the optimizer that are wrong."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from hfx import Plugin, hookimpl


class Copying(Plugin):
    """Returns an optimizer with groups and state of its own."""

    @hookimpl(wrapper=True)
    def hfx_optimizer(self) -> Generator[None, Any, Any]:
        from torch.optim import SGD

        inner = yield
        return SGD([{**group} for group in inner.param_groups], lr=1e-2, momentum=0.9)


class Stubborn(Plugin):
    """Puts the learning rate back to what it was."""

    @hookimpl(wrapper=True)
    def hfx_optimizer(self) -> Generator[None, Any, Any]:
        inner = yield
        rates = [group["lr"] for group in inner.param_groups]

        def put_back(optimizer: Any, *_: Any) -> None:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

        inner.register_step_pre_hook(put_back)
        return inner


class Counting(Plugin):
    """Does something at every third step, and counts where no checkpoint looks."""

    @hookimpl(wrapper=True)
    def hfx_optimizer(self) -> Generator[None, Any, Any]:
        inner = yield
        count = [0]

        def shrink(optimizer: Any, *_: Any) -> None:
            count[0] += 1
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if count[0] % 3 == 0 and group["lr"] > 0:
                        parameter.data.mul_(0.9)

        inner.register_step_post_hook(shrink)
        return inner


class Freezing(Plugin):
    """Takes the first group away."""

    @hookimpl(wrapper=True)
    def hfx_optimizer(self) -> Generator[None, Any, Any]:
        inner = yield
        del inner.param_groups[0]
        return inner


WRONG = {
    Copying: {"shares state and groups with what it wraps"},
    Stubborn: {"a zero learning rate changes nothing"},
    Counting: {"its state continues to the bit"},
    Freezing: {"a step changes every parameter", "every parameter is in one group", "its state continues to the bit"},
}
