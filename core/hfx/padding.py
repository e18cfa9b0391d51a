"""How much of what a run computes on is padding: its own sampler and batcher, in its own micro-batches."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hfx.run import Run

LOOKED_AT = 20_000
"""Sequences from the beginning of the order; an epoch with no more of them is counted whole."""


@dataclass(frozen=True)
class Padding:
    """Positions of the first epoch, and how many of them hold a token."""

    filled: int
    positions: int
    whole: bool
    """Whether the whole epoch was looked at."""

    @property
    def share(self) -> float:
        """The share of positions that are padding."""
        return 1 - self.filled / self.positions if self.positions else 0.0


def padding_of(run: Run) -> Padding:
    """Return the padding of a run's first epoch; of a stream that of its first block."""
    from hfx.blocks import OneBlock
    from hfx.order import GlobalBatch, Order, Position

    table, config = run.table("train"), run.config
    if not len(table):
        return Padding(0, 0, whole=True)
    order = Order(OneBlock(table), lambda _: run.sampler, run.batcher, config.batch_size, config.seed)
    lengths = table.column("length").astype(np.int64)
    sequences = (sequence for sequence, _ in order.sequences(Position()))
    filled = positions = seen = 0
    while seen < LOOKED_AT and (held := list(islice(sequences, config.batch_size))):
        seen += len(held)
        batch = GlobalBatch(held, Position())
        for rank in range(run.world.size):
            sizes = [int(lengths[sequence.rows].sum()) for sequence in batch.share(rank, run.world.size)]
            for at in range(0, len(sizes), config.micro_batch_size):
                part = sizes[at : at + config.micro_batch_size]
                filled, positions = filled + sum(part), positions + max(part) * len(part)
    return Padding(filled, positions, whole=next(sequences, None) is None)


def waste_line(run: Run, padding: Padding) -> list[str]:
    """Return the line on padding, where more than a fifth of the positions would be wasted on it."""
    if padding.share <= 0.2 or run.task.unit != "token" or run.resolved.roles["batcher"].plugin == "packing":
        return []
    positions, about = padding.positions, ""
    if not padding.whole:
        positions = round(int(run.table("train").column("length").sum()) / (1 - padding.share))
        about = "about "
    wasted = round(positions * padding.share)
    within = "the first block" if run.streams else "an epoch"
    return [
        f"waste      {about}{wasted:,} of {positions:,} positions {within} are padding; "
        "'hfx data stats --plugin packing' shows what packing leaves"
    ]
