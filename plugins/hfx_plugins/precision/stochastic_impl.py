"""Updates of bf16 weights that are rounded at random, so that on average nothing of them is lost.

While the optimizer steps, its parameters and their gradients hold float32 copies, and its state is in float32; then
weights and state are rounded to the dtypes they are kept in. The parameters stay the same objects, by which some
optimizers know them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from hfx.errors import IncompatibleError

if TYPE_CHECKING:
    from hfx import Run

AT_ONCE = 2**24
"""Elements of which float32 copies exist at a time: some 256 MB with AdamW's gradients and state."""
_ALONE = ("torch", "lion_pytorch", "hfx_plugins")
"""Packages whose optimizers update each parameter for itself, so that a step may be made part by part."""
_KEY = 3
"""What tells the seeds of rounding from those of models (1) and micro-steps (2)."""
_LOW = torch.bfloat16
_IN_PARTS = (
    "'bf16.rounding' is 'stochastic', and the backend holds parameters in parts; use a backend that holds them whole, "
    "or '--bf16.rounding nearest'"
)


class StochasticallyRounded(Optimizer):
    """An optimizer whose bf16 parameters are updated in float32 and rounded at random; it shares groups and state.

    State is kept in the dtypes in which the optimizer makes it for bf16 parameters, and rounded the same way. What is
    drawn depends on the run's seed, the step and the parameter alone: it is the same on every rank, and on resume.

    Raises:
        IncompatibleError: the backend holds parameters in parts.
    """

    def __init__(self, inner: Optimizer, run: Run) -> None:
        if any(hasattr(parameter, "full_tensor") for parameter in _parameters(inner.param_groups)):
            raise IncompatibleError(_IN_PARTS)
        super().__init__(inner.param_groups, {})
        self.param_groups, self.state = inner.param_groups, inner.state
        self._inner = inner
        self._run = run
        self._numbers = {p: number for number, p in enumerate(_parameters(self.param_groups))}
        self._dtypes: dict[Tensor, dict[str, torch.dtype]] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient.

        Raises:
            IncompatibleError: an engine has put other parameters into the groups.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        inner, groups = self._inner, self.param_groups
        todo = [parameter for parameter in _parameters(groups) if parameter.grad is not None]
        if any(parameter.dtype == _LOW and parameter not in self._numbers for parameter in todo):
            raise IncompatibleError(_IN_PARTS)
        parts = self._parts(todo)
        try:
            for part in parts:
                inner.param_groups = groups if len(parts) == 1 else _only(groups, part)
                self._update(part)
        finally:
            inner.param_groups = groups
        return loss

    def _parts(self, todo: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return the parameters to update, together or some at a time."""
        inner: Any = self._inner
        # Hooks that others put on it may count its steps.
        hooked = inner._optimizer_step_pre_hooks or inner._optimizer_step_post_hooks
        together = hooked or type(inner).__module__.partition(".")[0] not in _ALONE
        parts: list[list[Tensor]] = [[]]
        for parameter in todo:
            if parts[-1] and not together and sum(p.numel() for p in parts[-1]) + parameter.numel() > AT_ONCE:
                parts.append([])
            parts[-1].append(parameter)
        return parts

    def _update(self, part: Sequence[Tensor]) -> None:
        kept = self._kept(part)
        low = [parameter for parameter in part if parameter.dtype == _LOW]
        for parameter in low:
            self._widen(parameter)
        with _exchanged(low, torch.float32) as weights:
            self._inner.step()
            for parameter in low:
                draw = self._drawing(parameter)
                weights[parameter].copy_(rounded(parameter.detach(), draw))
                state = self.state.get(parameter, {})
                for key, dtype in sorted(kept[parameter].items()):
                    if dtype == _LOW and key in state:
                        state[key] = rounded(state[key], draw)

    def _widen(self, parameter: Tensor) -> None:
        state = self.state.get(parameter, {})
        for key, dtype in _dtypes(state).items():
            if dtype == _LOW:
                state[key] = state[key].float()

    def _kept(self, part: Sequence[Tensor]) -> dict[Tensor, dict[str, torch.dtype]]:
        """Return the dtypes of each parameter's state: as it is, or as the optimizer would make it for bf16."""
        new = [p for p in part if p.dtype == _LOW and not self.state.get(p) and p not in self._dtypes]
        if new:
            with _exchanged(new, _LOW):
                self._dtypes |= self._tried(new)
        return {p: _dtypes(self.state[p]) if self.state.get(p) else self._dtypes.get(p, {}) for p in part}

    def _tried(self, part: Sequence[Tensor]) -> dict[Tensor, dict[str, torch.dtype]]:
        """Return the dtypes of the state that a step makes, which does not count."""
        inner = self._inner
        step = type(inner).step
        state, groups = inner.state, inner.param_groups
        inner.state, inner.param_groups = defaultdict(dict), _only(groups, part)
        try:
            # Without the hooks that torch and others put around a step.
            getattr(step, "__wrapped__", step)(inner)
            return {parameter: _dtypes(inner.state[parameter]) for parameter in part}
        finally:
            inner.state, inner.param_groups = state, groups

    def _drawing(self, parameter: Tensor) -> torch.Generator:
        key = (self._run.config.seed, _KEY, self._run.step, self._numbers[parameter])
        seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
        return torch.Generator(parameter.device).manual_seed(seed)


def rounded(exact: Tensor, draw: torch.Generator) -> Tensor:
    """Return float32 numbers in bf16: of the two beside each one that is drawn, the nearer one more often.

    A number that is one in bf16 stays, and so does one that is not finite.
    """
    exact = exact.contiguous()
    bits = exact.view(torch.int32)
    # Four numbers of 16 bits for each draw: drawing is what takes time on a CPU.
    drawn = bits.new_empty(-(-bits.numel() // 4), dtype=torch.int64).random_(-(2**63), None, generator=draw)
    noise = drawn.view(torch.int16)[: bits.numel()].view(bits.shape)
    # What noise between 0 and 1 carries from the lower half of the bits into the upper half is the rounding.
    up = bits.add(1 << 15).add_(noise).bitwise_and_(-(1 << 16)).view(torch.float32).to(_LOW)
    return up.masked_fill_(exact.isnan(), math.nan)  # CUDA's has all bits set, and would become a number


@contextmanager
def _exchanged(parameters: Sequence[Tensor], dtype: torch.dtype) -> Iterator[dict[Tensor, Tensor]]:
    """Let parameters and their gradients hold copies in a dtype, and yield what they held, to be written into."""
    held = {parameter: (parameter.data, parameter.grad) for parameter in parameters}
    for parameter, (weight, gradient) in held.items():
        assert gradient is not None
        parameter.grad = None  # while it is there, torch lets nothing of another dtype in
        parameter.data = weight.to(dtype, copy=True)
        parameter.grad = gradient.to(dtype, copy=True)
    try:
        yield {parameter: weight for parameter, (weight, _) in held.items()}
    finally:
        for parameter, (weight, gradient) in held.items():
            parameter.grad = None
            parameter.data = weight
            parameter.grad = gradient


def _only(groups: Sequence[dict[str, Any]], part: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Return copies of groups that hold some of their parameters."""
    chosen = set(part)
    return [{**group, "params": [p for p in group["params"] if p in chosen]} for group in groups]


def _parameters(groups: Sequence[dict[str, Any]]) -> list[Tensor]:
    return [parameter for group in groups for parameter in group["params"]]


def _dtypes(state: dict[str, Any]) -> dict[str, torch.dtype]:
    return {key: value.dtype for key, value in state.items() if isinstance(value, Tensor)}
