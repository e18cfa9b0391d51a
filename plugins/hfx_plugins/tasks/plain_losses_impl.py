"""The tasks' losses as plain code: what stands in a script of `hfx eject`, word for word.

Each is the sum over a batch, as the task's own is; -100 is no label. They compute all logits, also where the tasks
compute those of labelled positions alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


def next_token_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the cross entropy of the next tokens."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    logits = model(**inputs, use_cache=False).logits[:, :-1].float()
    return functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum")


def token_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the cross entropy of the labels of tokens."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    logits = model(**inputs).logits.float()
    return functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum")


def target_loss(model: Any, batch: dict[str, torch.Tensor], label_smoothing: float) -> torch.Tensor:
    """Return the cross entropy of the tokens of the targets, of which the decoder reads those before."""
    shift = getattr(model, "module", model).prepare_decoder_input_ids_from_labels
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logits = model(**inputs, decoder_input_ids=shift(batch["labels"])).logits.float()
    return functional.cross_entropy(
        logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum", label_smoothing=label_smoothing
    )


def label_loss(
    model: Any, batch: dict[str, torch.Tensor], inputs: list[str], weights: list[float] | None, label_smoothing: float
) -> torch.Tensor:
    """Return the cross entropy of the rows' labels, weighted by the label where weights are given."""
    logits = model(**{name: batch[name] for name in inputs}).logits.float()
    weight = None if weights is None else logits.new_tensor(weights)
    return functional.cross_entropy(logits, batch["labels"], weight, reduction="sum", label_smoothing=label_smoothing)


def labels_loss(
    model: Any, batch: dict[str, torch.Tensor], inputs: list[str], weights: list[float] | None
) -> torch.Tensor:
    """Return the binary cross entropy of each label a row may have, its mean over the labels."""
    logits = model(**{name: batch[name] for name in inputs}).logits.float()
    weight = None if weights is None else logits.new_tensor(weights)
    given = batch["labels"]  # positions of the labels, padded with -100
    hot = logits.new_zeros(len(given), logits.shape[-1] + 1)
    hot = hot.scatter_(1, given.where(given >= 0, logits.shape[-1]), 1)[:, :-1]
    each = functional.binary_cross_entropy_with_logits(logits, hot, pos_weight=weight, reduction="none")
    return each.mean(-1).sum()


def number_loss(model: Any, batch: dict[str, torch.Tensor], inputs: list[str]) -> torch.Tensor:
    """Return the squared error of the rows' numbers."""
    logits = model(**{name: batch[name] for name in inputs}).logits.float()
    return functional.mse_loss(logits[:, 0], batch["labels"].float(), reduction="sum")


def preference_loss(
    model: Any, batch: dict[str, torch.Tensor], loss: str, beta: float, label_smoothing: float
) -> torch.Tensor:
    """Return the loss of how far a model tells the chosen answers from the rejected ones, beyond what it did before."""
    width = max(batch["input_ids"].shape[1], batch["rejected_ids"].shape[1])
    both: list[torch.Tensor] = []
    for pair, fill in ((("input_ids", "rejected_ids"), 0), (("labels", "rejected_labels"), -100)):
        wider = [functional.pad(batch[name], (0, width - batch[name].shape[1]), value=fill) for name in pair]
        both.append(torch.cat(wider))
    ids, labels = both
    lengths = torch.cat([batch["attention_mask"].sum(1), batch["rejected_length"]])
    mask = (torch.arange(width, device=ids.device) < lengths[:, None]).long()
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
    said = -functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none").sum(1)
    if loss == "ipo":
        said = said / (labels[:, 1:] != -100).sum(1).clamp(min=1)
    chosen, rejected = said.chunk(2)  # what the model said of both before training is in the samples
    apart = (chosen - batch["chosen_before"]) - (rejected - batch["rejected_before"])
    if loss == "hinge":
        return functional.relu(1 - beta * apart).sum()
    if loss == "ipo":
        return ((apart - 1 / (2 * beta)) ** 2).sum()
    right, wrong = functional.logsigmoid(beta * apart), functional.logsigmoid(-beta * apart)
    return -((1 - label_smoothing) * right + label_smoothing * wrong).sum()
