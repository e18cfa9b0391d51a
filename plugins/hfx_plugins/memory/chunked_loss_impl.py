"""Head and loss in one: the head returns the loss of its states, chunk by chunk, while labels are expected.

It stays inside the head's own forward pass, so that an engine which shards parameters gathers the head's as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils._python_dispatch import _disable_current_modes

from hfx.errors import IncompatibleError
from hfx.token_loss import causal_sum

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfx import Run
    from hfx_plugins.memory.chunked_loss import ChunkedLoss

PROBED = 4
"""Tokens whose logits are compared with what the head returned for them."""
LEAST = 128
"""Tokens in a chunk, where none are asked for: of fewer, adding their gradients up takes longer than computing them."""


def install(model: PreTrainedModel, options: ChunkedLoss, run: Run) -> None:
    """Replace the model's loss, and the forward pass of its head while the loss is computed.

    Raises:
        IncompatibleError: the model has no head of one matrix over its vocabulary.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or run.task.unit != "token":
        what = f"a head of '{type(head).__name__}'" if head is not None else "no head over the vocabulary"
        raise IncompatibleError(
            f"'{options.name}' needs a model for the next token with a linear head, and '{type(model).__name__}' has "
            f"{what}; add '--plugin no:{options.name}'"
        )
    model.loss_function = Loss(head, options, type(model).__name__, None if not run.planning else 1.0)


class Loss:
    """The model's loss: what the head returned is the loss already."""

    sums = True

    def __init__(self, head: nn.Linear, options: ChunkedLoss, model: str, scale: float | None) -> None:
        self._head = head
        self._options = options
        self._model = model
        self._expecting = False
        self._scale = scale
        """What the model multiplies logits by; None until the first batch has shown it."""

    @contextmanager
    def expecting(self, labels: Tensor, forward: Callable[[], Any]) -> Iterator[None]:
        """Let the head return the loss for labels `(labelled,)`; the model's first forward pass is preceded by a probe.

        Raises:
            IncompatibleError: the model does more to its logits than scale them.
        """
        if self._scale is None:
            self._scale = self._probed(forward)
        scale = self._scale

        def loss(states: Tensor) -> Tensor:
            # The model will scale what the head returns.
            return self._loss(states.squeeze(0) * scale if scale != 1 else states.squeeze(0), labels).view(1, 1) / scale

        with self._forward(loss):
            yield
        self._expecting = True  # only now: a forward pass that failed has left no loss behind

    def __call__(self, logits: Tensor, labels: Tensor, **_: Any) -> Tensor:
        """Return the loss, `()`: what the head returned, or the plain one of logits that were made without labels."""
        if not self._expecting:
            return causal_sum(logits, labels)
        self._expecting = False
        return logits.sum()

    @contextmanager
    def _forward(self, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
        self._head.forward = forward  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            del self._head.forward

    def _probed(self, forward: Callable[[], Any]) -> float:
        """Return what the model multiplies the head's logits by, seen at a few tokens."""
        raw: list[Tensor] = []

        def look(states: Tensor) -> Tensor:
            raw.append(nn.Linear.forward(self._head, states[:, :PROBED]))
            return raw[0]

        devices = [self._head.weight.device] if self._head.weight.device.type == "cuda" else []
        # Not a part of the step: who counts the step's operations does not see it.
        with _disable_current_modes(), torch.random.fork_rng(devices), torch.no_grad(), self._forward(look):
            seen = forward().logits.float()
        logits = raw[0].float()
        if not logits.numel():
            return 1.0
        scale = float((seen * logits).sum() / (logits * logits).sum())
        if not torch.allclose(seen, scale * logits, rtol=1e-2, atol=1e-2 * float(logits.abs().max())):
            raise IncompatibleError(
                f"'{self._options.name}' computes the loss in the head, and a '{self._model}' changes its logits after "
                f"it (soft-capping?); add '--plugin no:{self._options.name}'"
            )
        return 1.0 if abs(scale - 1) < 1e-3 else scale

    def _loss(self, states: Tensor, labels: Tensor) -> Tensor:
        device = states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
        size = self._options.chunk or max(LEAST, states.shape[1] // 2)
        inputs: list[Tensor | None] = [states, self._head.weight, self._head.bias]
        if not torch.is_grad_enabled():
            # An autograd function is told what its inputs would need, and not that nobody asks for it.
            inputs = [None if tensor is None else tensor.detach() for tensor in inputs]
        return _Summed.apply(*inputs, labels, size, dtype)  # type: ignore[no-any-return, no-untyped-call]


class _Summed(torch.autograd.Function):
    """The summed cross entropy of a linear head, with its gradients, of a few tokens at a time.

    torch has the same (`linear_cross_entropy`); this one is as fast, sums in float32 whatever the products are computed
    in, and consists of operations that a planner and a count of operations can see.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, size: int, dtype: torch.dtype
    ) -> Tensor:
        """Return the loss, `()`, of states `(labelled, hidden)`, with products in `dtype`, and keep the gradients."""
        total = states.new_zeros((), dtype=torch.float32)
        low = weight.to(dtype)
        by_states, by_weight, by_bias = (
            torch.zeros_like(tensor, dtype=torch.float32) if tensor is not None and wanted else None
            for tensor, wanted in zip((states, weight, bias), ctx.needs_input_grad, strict=False)
        )
        # One for all chunks: to ask for so much memory anew costs a share of the time.
        logits = states.new_empty((min(size, len(states)), len(weight)), dtype=torch.float32)
        for at in range(0, len(states), size):
            some, targets = states[at : at + size].to(dtype), labels[at : at + size, None]
            error = _logits(some, low, bias, out=logits[: len(some)])
            wanted = error.gather(1, targets)
            highest = error.amax(1, keepdim=True)
            sums = error.sub_(highest).exp_().sum(1, keepdim=True)
            total += (sums.log() + highest - wanted).sum()
            error.div_(sums).scatter_add_(1, targets, torch.full_like(sums, -1.0))
            rounded = error.to(dtype)
            if by_states is not None:
                by_states[at : at + size] = rounded @ low
            if by_weight is not None:
                _add_product(by_weight, rounded.T, some)
            if by_bias is not None:
                by_bias += error.sum(0)
        made = zip((by_weight, by_bias), (weight, bias), strict=True)
        ctx.by = [by_states, *(None if by is None or of is None else by.to(of.dtype) for by, of in made)]
        ctx.dtype = states.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by states, weight and bias; they are scaled in place, so there is no second time."""
        by, ctx.by = ctx.by, None
        if by is None:
            raise RuntimeError("the gradients of 'chunked_loss' are computed once; call 'backward' once a forward pass")
        by_states, by_weight, by_bias = (None if tensor is None else tensor.mul_(grad) for tensor in by)
        # In fp16 they may be too small to hold until they are scaled.
        return (None if by_states is None else by_states.to(ctx.dtype)), by_weight, by_bias, None, None, None


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """Write logits `(tokens, vocab)` to `out`, float32, whatever they are computed in."""
    if weight.dtype != out.dtype:
        return out.copy_(linear(states, weight, None if bias is None else bias.to(weight.dtype)))
    return torch.mm(states, weight.T, out=out) if bias is None else torch.addmm(bias, states, weight.T, out=out)


def _add_product(into: Tensor, left: Tensor, right: Tensor) -> None:
    """Add a product of two matrices to `into`, float32."""
    if left.dtype == into.dtype:
        into.addmm_(left, right)
    else:
        into += left @ right
