"""A backend of one process whose optimizer steps parameter by parameter, from hooks of the backward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import torch

from hfx.backend import TorchBackend
from hfx.errors import HfxError, IncompatibleError
from hfx.protocols import StepResult

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hfx import Backend, Run


class InBackward(TorchBackend):
    """Updates a parameter when its gradient is whole, and frees the gradient."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._last = False
        self._square = 0.0
        self._updated = 0
        self._skips = False
        self._handles: list[Any] = []
        self._group: dict[int, int] = {}

    @classmethod
    def instead_of(cls, backend: Backend, run: Run) -> Self:
        """Return one in place of the plain backend.

        Raises:
            IncompatibleError: the backend is another one, or the precision scales gradients.
        """
        if type(backend) is not TorchBackend:
            raise IncompatibleError(
                f"'optimizer_in_backward' works in one process that holds all parameters, and the backend is "
                f"'{type(backend).__name__}'; use '--plugin auto_backend' and one process, or leave it out"
            )
        if run.precision.scaler is not None:
            raise IncompatibleError(
                "'optimizer_in_backward' cannot update beside a precision that scales gradients; use '--plugin bf16'"
            )
        return cls(run)

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
        """Return the module as it is, its parameters watched."""
        for index, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
                self._group[id(parameter)] = index
                self._handles.append(parameter.register_post_accumulate_grad_hook(self._arrived))
        return super().prepare(module, optimizer)

    @contextmanager
    def micro_step(self, last: bool) -> Iterator[None]:
        """Update in the backward pass of the last micro-step; the others add up gradients."""
        self._last = last
        try:
            yield
        finally:
            self._last = False

    def drop_gradients(self) -> bool:
        """Drop them, and say whether the step can begin anew: nothing was updated yet."""
        super().drop_gradients()
        return not self._updated and not self._skips

    def step(self, max_norm: float | None) -> StepResult:
        """Update what had its gradient from an earlier micro-step alone, and return the norm of all."""
        if max_norm is not None:
            raise IncompatibleError("'optimizer_in_backward' cannot clip; set '--max-grad-norm none'")
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter)
        norm = math.nan if self._skips else math.sqrt(self._square)
        result = StepResult(norm, self._skips)
        self._square, self._updated, self._skips = 0.0, 0, False
        return result

    def close(self) -> None:
        """Watch the parameters no more: a model given from Python outlives its run."""
        for handle in self._handles:
            handle.remove()

    def _arrived(self, parameter: Tensor) -> None:
        if self._last:
            self._update(parameter)

    def _update(self, parameter: Tensor) -> None:
        """Let the optimizer see one parameter alone, and free its gradient.

        Raises:
            HfxError: the gradient is not finite, and those before it were.
            IncompatibleError: the optimizer counts or measures something over all parameters.
        """
        assert parameter.grad is not None
        if self._skips:
            parameter.grad = None
            return
        norm = float(torch.linalg.vector_norm(parameter.grad, dtype=torch.float32))
        if not math.isfinite(norm) and not self._updated:
            self._skips, parameter.grad = True, None
            return
        if not math.isfinite(norm):
            raise HfxError(
                "a gradient is not finite, and 'optimizer_in_backward' cannot take back the updates before it; "
                "go on from the last checkpoint with a lower learning rate, or with clipping in place of it"
            )
        self._square += norm * norm
        self._updated += 1
        optimizer = self.optimizer
        groups = optimizer.param_groups
        group = groups[self._group[id(parameter)]]
        alone = {**group, "params": [parameter]}
        optimizer.param_groups = [alone]
        try:
            optimizer.step()
        finally:
            optimizer.param_groups = groups
        if changed := [key for key in group if key != "params" and alone[key] != group[key]]:
            raise IncompatibleError(
                f"'{type(optimizer).__name__}' keeps '{changed[0]}' for all parameters together, so "
                "'optimizer_in_backward' cannot call it for one; leave it out, or use '--plugin adamw'"
            )
        parameter.grad = None
