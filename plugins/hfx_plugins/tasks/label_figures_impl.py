"""Figures of predicted labels and numbers; their states are sums, which ranks add up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_ROUNDING = 1e-12


class Confusion:
    """How often each label was taken for each: `state[label, prediction]`."""

    def __init__(self, labels: int) -> None:
        self.state: Tensor = torch.zeros(labels, labels, dtype=torch.float64)

    def update(self, labels: Tensor, logits: Tensor) -> None:
        """Count a batch: labels `(batch,)`, logits `(batch, labels)`."""
        size = len(self.state)
        pairs = (labels * size + logits.argmax(-1)).cpu()
        self.state += torch.bincount(pairs, minlength=size * size).view(size, size).double()

    def compute(self) -> dict[str, float]:
        """Return accuracy, and the mean F1 over the labels that occur or were predicted; nothing without rows."""
        total = self.state.sum()
        if total == 0:
            return {}
        right, true, predicted = self.state.diagonal(), self.state.sum(1), self.state.sum(0)
        occurs = (true + predicted) > 0
        f1 = 2 * right[occurs] / (true + predicted)[occurs]
        return {"accuracy": float(right.sum() / total), "macro_f1": float(f1.mean())}


class Sets:
    """How often each of several labels was found, missed and made up; `state` is `(labels + 1, 3)`.

    The last row holds the rows that were right in every label, and all rows. A label is found where its logit is above
    zero, which is a probability above a half.
    """

    def __init__(self, labels: int) -> None:
        self.state: Tensor = torch.zeros(labels + 1, 3, dtype=torch.float64)

    def update(self, hot: Tensor, logits: Tensor) -> None:
        """Count a batch: 1 where a row has a label, `(batch, labels)`, and logits of that shape."""
        true, said = hot.cpu() > 0, logits.cpu() > 0
        self.state[:-1] += torch.stack([true & said, true & ~said, ~true & said], -1).sum(0).double()
        self.state[-1, 0] += int((true == said).all(-1).sum())
        self.state[-1, 1] += len(true)

    def compute(self) -> dict[str, float]:
        """Return F1 over all labels together and as the mean of each, and the share of rows with every label right."""
        exact, rows, _ = self.state[-1].tolist()
        if rows == 0:
            return {}
        found, missed, made_up = self.state[:-1].unbind(-1)
        each = 2 * found + missed + made_up
        # A label that neither occurs nor is predicted counts as not found, as in scikit-learn.
        f1 = torch.where(each > 0, 2 * found / each.clamp(min=1), 0.0)
        micro = float(2 * found.sum() / each.sum()) if each.sum() > 0 else 0.0
        return {"micro_f1": micro, "macro_f1": float(f1.mean()), "exact_match": exact / rows}


class Deviations:
    """Sums over numbers `y` and what was predicted, `p`: of 1, y, p, y², p², yp, and the squared and absolute error."""

    def __init__(self) -> None:
        self.state: Tensor = torch.zeros(8, dtype=torch.float64)

    def update(self, labels: Tensor, predicted: Tensor) -> None:
        """Add a batch: both are `(batch,)`."""
        y, p = labels.double().cpu(), predicted.double().cpu()
        sums = [torch.ones_like(y), y, p, y * y, p * p, y * p, (y - p) ** 2, (y - p).abs()]
        self.state += torch.stack(sums).sum(-1)

    def compute(self) -> dict[str, float]:
        """Return the mean squared and absolute error, R² and Pearson's correlation, where they are defined."""
        n, y, p, yy, pp, yp, squared, absolute = self.state.tolist()
        if n == 0:
            return {}
        figures = {"mse": squared / n, "mae": absolute / n}
        spread, spread_p = yy - y * y / n, pp - p * p / n
        # What is left of numbers that are all the same is the rounding of their squares.
        vary, vary_p = spread > _ROUNDING * yy, spread_p > _ROUNDING * pp
        if vary:
            figures["r2"] = 1 - squared / spread
        if vary and vary_p:
            figures["pearson"] = (yp - y * p / n) / math.sqrt(spread * spread_p)
        return figures
