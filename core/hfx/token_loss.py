"""The loss of tokens, next ones or masked ones, over the positions that carry a label and no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

IGNORED = -100


def causal_sum(logits: Tensor, labels: Tensor, **_: Any) -> Tensor:
    """Return the summed cross entropy, `()`, in float32.

    Of logits `(labelled, vocab)` for labels `(labelled,)`; or of all logits `(batch, seq, vocab)` for labels
    `(batch, seq)`, each of which is that of the position before it. The core installs it as `model.loss_function`.
    """
    if logits.ndim == 3:
        labels = labels[:, 1:]
        labelled = labels != IGNORED
        logits, labels = logits[:, :-1][labelled], labels[labelled]
    return nn.functional.cross_entropy(logits.float(), labels, reduction="sum")


def install_loss(model: nn.Module) -> None:
    """Make `model.loss_function` the summed loss of this file."""
    cast("Any", model).loss_function = causal_sum


def causal_loss(model: nn.Module, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """Return the summed loss of the next token, `()`, for labels `(batch, seq)`, of which -100 carries none.

    The model's head is given the states of labelled positions alone: padding and prompts cost no logits. What the head
    returns for them goes through `model.loss_function`, which a wrapper may have replaced; one that works in the head
    has a method `expecting(labels, forward)`, a context around the model's forward pass.
    """
    labelled = torch.zeros_like(labels, dtype=torch.bool)
    labelled[:, :-1] = labels[:, 1:] != IGNORED
    targets = labels[:, 1:][labelled[:, :-1]]
    forward = partial(model, **inputs, use_cache=False)  # a cache would make packed rows see each other
    return _loss_at(model, forward, labelled, targets)


def masked_loss(model: nn.Module, inputs: Mapping[str, Tensor], labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the summed loss, `()`, of tokens that are guessed where they are, for labels `(batch, seq)`.

    As with `causal_loss`, -100 carries none, and the head is given the states of labelled positions alone. With
    smoothing the loss is this function's own.
    """
    labelled = labels != IGNORED
    targets, forward = labels[labelled], partial(model, **inputs)
    if not label_smoothing:
        return _loss_at(model, forward, labelled, targets)
    head = getattr(model, "get_output_embeddings", lambda: None)()
    with _selecting(head, labelled):
        logits = forward().logits
    logits = logits[labelled] if head is None else logits.squeeze(0)
    return nn.functional.cross_entropy(logits.float(), targets, reduction="sum", label_smoothing=label_smoothing)


def next_token_logps(model: nn.Module, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """Return the logarithm of the probability that a model gives to the labels of each sequence, `(batch,)`, float32.

    Labels `(batch, seq)` are each that of the position before it; -100 is none. The head is given labelled positions.
    """
    labelled = torch.zeros_like(labels, dtype=torch.bool)
    labelled[:, :-1] = labels[:, 1:] != IGNORED
    targets, rows = labels[:, 1:][labelled[:, :-1]], labelled.nonzero()[:, 0]
    head = getattr(model, "get_output_embeddings", lambda: None)()
    with _selecting(head, labelled):
        logits = model(**inputs, use_cache=False).logits
    logits = logits[labelled] if head is None else logits.squeeze(0)
    each = -nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return each.new_zeros(len(labels)).index_add(0, rows, each)


def _loss_at(model: nn.Module, forward: Callable[[], Any], labelled: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of targets `(labelled,)` at the positions that a mask of `(batch, seq)` chooses."""
    # A module around the model may hide its head: then all logits are there, and the labelled ones are taken.
    head = getattr(model, "get_output_embeddings", lambda: None)()
    loss_function = cast("Any", model).loss_function
    expecting = getattr(loss_function, "expecting", _nothing)
    with _selecting(head, labelled), expecting(targets, forward):
        logits = forward().logits
    if head is None:
        logits = logits[labelled]
    loss: Tensor = loss_function(logits=logits.squeeze(0), labels=targets)
    return loss


@contextmanager
def _nothing(*_: Any) -> Iterator[None]:
    yield


@contextmanager
def _selecting(head: nn.Module | None, labelled: Tensor) -> Iterator[None]:
    """Let the head see `(1, labelled, hidden)` of its states `(batch, seq, hidden)`."""
    if head is None:
        yield
        return
    handle = head.register_forward_pre_hook(lambda _, states: (states[0][labelled].unsqueeze(0), *states[1:]))
    try:
        yield
    finally:
        handle.remove()
