"""What is asked of a batcher: every example in one sequence, nothing lost, and neighbours that do not matter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from hfx.run import Run
from hfx.testing.bench import Bench
from hfx.testing.elastic import ORDER
from hfx.testing.examples import IGNORED, attentive, close, collate, drawn, loss_of

if TYPE_CHECKING:
    from hfx.protocols import Indices


def _windows(run: Run) -> Iterator[tuple[Indices, Indices]]:
    """Yield rows and lengths as `order.py` hands them over: whole windows, short ones, in a random order."""
    table, window = run.table("train"), run.batcher.window
    assert isinstance(window, int), f"`window` is {window!r}; it has to be a whole number"
    assert window >= 1, f"`window` is {window}; it has to be 1 or more"
    order = np.random.default_rng(0).permutation(len(table)).astype(np.int64)
    lengths = table.column("length").astype(np.int64)
    for size in sorted({1, min(window, 3), min(window, len(table))}):
        for at in range(0, len(table), size):
            rows = order[at : at + size]
            yield rows, lengths[rows]


def _groups(run: Run, most: int = 6) -> list[list[int]]:
    """Return some sequences, those that hold several rows first."""
    found = [
        [int(row) for row in group] for rows, lengths in _windows(run) for group in run.batcher.groups(rows, lengths)
    ]
    return sorted(found, key=len, reverse=True)[:most]


def groups_hold_every_row_once(bench: Bench) -> None:
    """A row that is lost is never trained on; one that comes twice counts double."""
    with bench.run() as run:
        for rows, lengths in _windows(run):
            groups = run.batcher.groups(rows, lengths)
            assert all(len(group) for group in groups), "a sequence holds no row"
            held = np.sort(np.concatenate(groups))
            assert np.array_equal(held, np.sort(rows)), f"of {len(rows)} rows the sequences hold {len(held)}, or others"


def groups_fit_a_sequence(bench: Bench) -> None:
    """No sequence is longer than `seq_length`."""
    with bench.run() as run:
        for rows, lengths in _windows(run):
            length = dict(zip(rows.tolist(), lengths.tolist(), strict=True))
            for group in run.batcher.groups(rows, lengths):
                positions = sum(length[int(row)] for row in group)
                assert positions <= run.config.seq_length, f"a sequence has {positions} positions"


def the_same_rows_have_the_same_groups(bench: Bench) -> None:
    """A resumed run groups a window again."""
    with bench.run() as run, bench.run() as other:
        for rows, lengths in _windows(run):
            first = [group.tolist() for group in run.batcher.groups(rows.copy(), lengths.copy())]
            for batcher in (run.batcher, other.batcher):
                again = [group.tolist() for group in batcher.groups(rows, lengths)]
                assert again == first, "the same rows are grouped otherwise when asked again"


def batches_have_one_line_for_each_sequence(bench: Bench) -> None:
    """Every column of the task, `(sequences, ...)`."""
    with bench.run() as run:
        groups = _groups(run)
        batch = collate(run, groups)
        missing = run.task.collated().keys() - batch.keys()
        assert not missing, f"the batch lacks the column '{min(missing)}'"
        for name, tensor in batch.items():
            assert isinstance(tensor, torch.Tensor), f"'{name}' of the batch is a {type(tensor).__name__}"
            assert tensor.shape[0] == len(groups), f"'{name}' has {tensor.shape[0]} lines for {len(groups)} sequences"


def no_token_is_lost(bench: Bench) -> None:
    """A line holds the ids of its examples, and padding."""
    with bench.run() as run:
        groups = _groups(run)
        batch, pad = collate(run, groups), int(run.task.collated()["input_ids"].pad)
        for group, line in zip(groups, batch["input_ids"].tolist(), strict=True):
            wanted = Counter(int(token) for row in group for token in drawn(run, row)["input_ids"])
            lost, more = wanted - Counter(line), Counter(line) - wanted
            assert not lost, f"a sequence lacks {lost.total()} of its tokens"
            assert set(more) <= {pad}, "a sequence has tokens that are neither its own nor padding"


def padding_carries_no_label(bench: Bench) -> None:
    """There are as many labels as units."""
    with bench.run() as run:
        groups = _groups(run)
        units = run.table("train").column("units")
        for group, labels in zip(groups, collate(run, groups)["labels"], strict=True):
            found, wanted = int((labels != IGNORED).sum()), int(units[np.array(group)].sum())
            assert found == wanted, f"a sequence has {found} labels and its examples {wanted}; padding is {IGNORED}"


def the_loss_of_a_batch_is_that_of_its_examples(bench: Bench) -> None:
    """Examples that share a sequence or a batch do not see each other."""
    with bench.run() as run, attentive(run):
        groups = _groups(run)
        together = loss_of(run, collate(run, groups))
        alone = sum(loss_of(run, collate(run, [[row]])) for group in groups for row in group)
        assert close(together, torch.as_tensor(alone)), (
            f"the loss of a batch is {together:.4f}, of its rows {alone:.4f}"
        )


BATCHER = (
    groups_hold_every_row_once,
    groups_fit_a_sequence,
    the_same_rows_have_the_same_groups,
    batches_have_one_line_for_each_sequence,
    no_token_is_lost,
    padding_carries_no_label,
    the_loss_of_a_batch_is_that_of_its_examples,
    *ORDER,
)
