"""Functions that stand in every script of `hfx eject`, word for word: `eject.py` takes their source from here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch


def collate(rows: list[dict[str, Any]], pad: dict[str, int], multiple: int) -> dict[str, torch.Tensor]:
    """Return samples as tensors: lists padded on the right, `(batch, longest)`, and numbers, `(batch,)`."""
    batch: dict[str, torch.Tensor] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if isinstance(values[0], list):
            width = -(-max(len(value) for value in values) // multiple) * multiple
            # Positions go on, so that padding is one more document of a packed sequence.
            fill = list(range(width)) if name == "position_ids" else [pad.get(name, 0)] * width
            values = [value + fill[: width - len(value)] for value in values]
        batch[name] = torch.tensor(values)
    if "position_ids" not in batch and "input_ids" in batch:
        lengths = torch.tensor([[len(row["input_ids"])] for row in rows])
        batch["attention_mask"] = (torch.arange(batch["input_ids"].shape[1]) < lengths).long()
    return batch


def micro_batches(
    rows: list[dict[str, Any]], most: int, rank: int, world: int
) -> list[tuple[list[dict[str, Any]], float]]:
    """Return what a process computes of a step: parts of at most `most` samples, each with its weight.

    All processes have as many parts; one that has no samples left computes one with weight 0.
    """
    each = math.ceil(len(rows) / world)
    own = rows[rank * each : (rank + 1) * each]
    parts = [own[start : start + most] for start in range(0, each, most)]
    return [(part, 1.0) if part else (rows[:1], 0.0) for part in parts]


def seed(*key: int) -> None:
    """Seed what the model draws, such as dropout: by run, step, micro-batch and process."""
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))
