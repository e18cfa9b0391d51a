"""Head and loss in one: the head returns the loss of its states, chunk by chunk, while labels are expected.

It stays inside the head's own forward pass, so that an engine which shards parameters gathers the head's as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import LinearCrossEntropyOptions
from torch.nn.functional import linear, linear_cross_entropy

from hfx.causal import causal_sum
from hfx.errors import IncompatibleError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfx import Run
    from hfx_plugins.memory.chunked_loss import ChunkedLoss

PROBED = 4
"""Tokens whose logits are compared with what the head returned for them."""


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
        with torch.random.fork_rng(devices), torch.no_grad(), self._forward(look):
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
        weight, bias, size = self._head.weight, self._head.bias, self._options.chunk
        if torch.is_autocast_enabled(states.device.type):
            states = states.to(torch.get_autocast_dtype(states.device.type))
        if states.dtype != torch.float32:
            low = [None if tensor is None else tensor.to(states.dtype) for tensor in (weight, bias)]
            return _LowPrecision.apply(states, *low, labels, size)  # type: ignore[no-any-return, no-untyped-call]
        # torch's own choice of chunks is several times slower on a CPU.
        options = LinearCrossEntropyOptions(batch_chunk_size=size, chunking_method=None)
        loss: Tensor = linear_cross_entropy(
            states, weight, labels, linear_bias=bias, reduction="sum", options=options if len(labels) else None
        )
        return loss


class _LowPrecision(torch.autograd.Function):
    """The same in bf16 or fp16, with a sum in float32: torch's returns the loss in the dtype of the states."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, size: int) -> Tensor:
        """Return the loss, `()`, of states `(labelled, hidden)`, and keep the gradients."""
        total = states.new_zeros((), dtype=torch.float32)
        by_states = torch.empty_like(states)
        _, learns, bias_learns, *_ = ctx.needs_input_grad
        by_weight = torch.zeros_like(weight, dtype=torch.float32) if learns else None
        by_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and bias_learns else None
        for at in range(0, len(states), size):
            some, targets = states[at : at + size], labels[at : at + size]
            logits = linear(some, weight, bias).float()
            log_sums = logits.logsumexp(1, keepdim=True)
            total += (log_sums - logits.gather(1, targets[:, None])).sum()
            error = logits.sub_(log_sums).exp_()
            error.scatter_add_(1, targets[:, None], torch.full_like(log_sums, -1.0))
            if by_bias is not None:
                by_bias += error.sum(0)
            rounded = error.to(weight.dtype)
            by_states[at : at + size] = rounded @ weight
            if by_weight is not None:
                by_weight += rounded.T @ some
        low = (None if tensor is None else tensor.to(weight.dtype) for tensor in (by_weight, by_bias))
        ctx.save_for_backward(by_states, *low)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by states, weight and bias."""
        by = (None if tensor is None else tensor * grad.to(tensor.dtype) for tensor in ctx.saved_tensors)
        return (*by, None, None)
