"""One evaluation: the loss and the task's figures over some rows, to the bit the same for any number of ranks.

Rows of similar length share a batch, which holds no more positions than a micro-batch of training may. Which rows are
in which batch depends on the rows alone. Each batch's loss has its own place in what is added up over the ranks, so
nothing depends on the order of adding; whoever has no batch in a round computes one that does not count.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from hfx.loop import to_device

if TYPE_CHECKING:
    from hfx.protocols import Indices, Metrics, Table, Values
    from hfx.run import Run
    from hfx.table import ArrowTable


def evaluate(run: Run, metrics: Metrics | None = None) -> dict[str, float]:
    """Return `eval_loss` and the task's figures over the evaluation rows.

    Args:
        run: A run whose module is built.
        metrics: Figures at zero to fill; none: the task's own.
    """
    from hfx.blocks import tables

    metrics = metrics or run.task.metrics()
    total = units = 0.0
    before = 0
    run.module.eval()
    try:
        with torch.no_grad():
            for table in tables(run.blocks("eval")):
                sums = run.backend.all_reduce(_of_table(run, cast("ArrowTable", table), before, metrics)).sum(0)
                total, units = total + float(sums[0]), units + float(sums[1])
                before += len(table)
    finally:
        run.module.train()
    metrics.state = run.backend.all_reduce(metrics.state.cpu())
    figures = {f"eval_{name}": value for name, value in metrics.compute().items()}
    return {"eval_loss": total / max(1.0, units)} | figures


def batches(widths: Indices, positions: int, most: int) -> list[Indices]:
    """Return the rows of each batch, by width: as many as fill so many positions when padded, one at least.

    Args:
        widths: Positions of each row, `(rows,)`.
        positions: Most positions of a batch.
        most: Most rows of a batch.
    """
    order = np.argsort(widths, kind="stable")
    sorted_widths = widths[order]
    found, start = [], 0
    while start < len(order):
        # The last row of a batch is its widest one, by which all are padded.
        room = sorted_widths[start : start + most] * np.arange(1, min(most, len(order) - start) + 1)
        stop = start + max(1, int(np.searchsorted(room, positions, side="right")))
        found.append(order[start:stop])
        start = stop
    return found


def _of_table(run: Run, table: ArrowTable, before: int, metrics: Metrics) -> torch.Tensor:
    """Return the sum of the loss and the units of each batch of a table, `(batches, 2)`: of this rank's, else 0.

    So many examples are in the blocks `before`.
    """
    world, config = run.world, run.config
    count: Callable[[Values], int] | None = getattr(run.task, "drawn_units", None)
    known = table.column("units")
    # An epoch's micro-batches are no larger, and hold activations, too.
    positions = run.micro_batch_size * config.seq_length
    parts = batches(table.widths(), positions, run.micro_batch_size * _MORE)
    sums, unused = torch.zeros(len(parts), 2, dtype=torch.float64), run.task.metrics()
    for index in range(math.ceil(len(parts) / world.size)):
        at = index * world.size + world.rank
        rows = parts[at] if at < len(parts) else parts[0]
        drawn = [[_drawn(run, table, int(row), before)] for row in rows]
        tensors = to_device(run.batcher.collate(drawn), run.device)
        with run.precision.autocast():
            loss = run.module(tensors, metrics if at < len(parts) else unused)
        if at < len(parts):
            units = sum(count(values) for [values] in drawn) if count else int(known[rows].sum())
            sums[at] = torch.stack([loss.double().cpu(), torch.tensor(units, dtype=torch.float64)])
    return sums


_MORE = 16
"""How many times the rows of a micro-batch are in a batch of short rows, at most."""


def _drawn(run: Run, table: Table, row: int, before: int) -> dict[str, Any]:
    """Return the values of an example; what is drawn anew is the same in every evaluation."""
    rng = np.random.Generator(np.random.Philox(key=run.config.seed, counter=[0, before + row, 0, 0]))
    return run.task.draw(table.values(row), rng)
