"""Figures of predicted labels and numbers; their states are sums, which ranks add up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

_ROUNDING = 1e-12


class Confusion:
    """How often each label was taken for each: `state[label, prediction]`."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self.state: Tensor = torch.zeros(len(names), len(names), dtype=torch.float64)

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

    def details(self) -> dict[str, Any]:
        """Return the labels, how often each was taken for each, and the figures of each."""
        found, there, predicted = self.state.diagonal(), self.state.sum(1), self.state.sum(0)
        counts = torch.stack([found, predicted, there], -1).tolist()
        return {
            "labels": list(self._names),
            "confusion": self.state.long().tolist(),
            "by_label": {name: _scores(*each) for name, each in zip(self._names, counts, strict=True)},
        }


class Sets:
    """How often each of several labels was found, missed and made up; `state` is `(labels + 1, 3)`.

    The last row holds the rows that were right in every label, and all rows. A label is found where its logit is above
    zero, which is a probability above a half.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self.state: Tensor = torch.zeros(len(names) + 1, 3, dtype=torch.float64)

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

    def details(self) -> dict[str, Any]:
        """Return the labels, and the figures of each."""
        found, missed, made_up = self.state[:-1].unbind(-1)
        counts = torch.stack([found, found + made_up, found + missed], -1).tolist()
        by_label = {name: _scores(*each) for name, each in zip(self._names, counts, strict=True)}
        return {"labels": list(self._names), "by_label": by_label}


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
        """Return the mean squared and absolute error, R² and Pearson's correlation; no number where there is none.

        A figure that is missing once would end a run that is judged by it.
        """
        n, y, p, yy, pp, yp, squared, absolute = self.state.tolist()
        if n == 0:
            return {}
        spread, spread_p = yy - y * y / n, pp - p * p / n
        # What is left of numbers that are all the same is the rounding of their squares.
        vary, vary_p = spread > _ROUNDING * yy, spread_p > _ROUNDING * pp
        return {
            "mse": squared / n,
            "mae": absolute / n,
            "r2": 1 - squared / spread if vary else math.nan,
            "pearson": (yp - y * p / n) / math.sqrt(spread * spread_p) if vary and vary_p else math.nan,
        }


def _scores(found: float, predicted: float, there: float) -> dict[str, float]:
    """Return precision, recall and F1 of a label, 0 where nothing was found, and how many rows have it."""
    return {
        "precision": found / max(1.0, predicted),
        "recall": found / max(1.0, there),
        "f1": 2 * found / max(1.0, predicted + there),
        "rows": there,
    }
