"""Which examples share a sequence, and how their columns are laid out in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from hfx import ColumnType
from hfx.errors import IncompatibleError, PluginError
from hfx_plugins.batching.packing_fit_impl import fitted
from hfx_plugins.batching.padding_impl import PaddingBatcher

if TYPE_CHECKING:
    from hfx import Task
    from hfx.protocols import Batch, Indices, Values

IGNORED = -100


@dataclass
class PackingBatcher:
    """Examples behind one another, `position_ids` restarting with each; padding at the end counts as one more.

    There is no `attention_mask`: models tell the examples apart by their positions, and only where none is given.
    """

    columns: dict[str, ColumnType]
    seq_length: int
    window: int = 10_000
    shifted: bool = True
    """Whether a label is predicted from the position before it, which for an example's first is a neighbour's."""

    def groups(self, rows: Indices, lengths: Indices) -> list[Indices]:
        """Return the rows of each sequence, packed together by their lengths alone (see `packing_fit_impl.py`).

        Raises:
            PluginError: an example is longer than a sequence.
        """
        if not len(rows):
            return []
        if (longest := int(lengths.max())) > self.seq_length:
            raise PluginError(
                f"an example has {longest} positions and 'seq_length' is {self.seq_length};"
                " the task has to split, cut or drop what is longer"
            )
        order = np.argsort(-lengths, kind="stable")
        bins = np.array(fitted(lengths[order].tolist(), self.seq_length))
        by_bin = np.argsort(bins, kind="stable")
        starts = np.flatnonzero(np.diff(bins[by_bin])) + 1
        return np.split(rows[order[by_bin]], starts)

    def collate(self, sequences: list[list[Values]]) -> Batch:
        """Return `(batch, seq)` tensors of the task's columns and `position_ids`, padded to the longest sequence."""
        joined: list[list[Values]] = [
            [{name: np.concatenate([example[name] for example in sequence]) for name in self.columns}]
            for sequence in sequences
        ]
        batch = PaddingBatcher(self.columns).collate(joined)
        del batch["attention_mask"]
        width = batch["input_ids"].shape[1]
        lengths = [[len(example["input_ids"]) for example in sequence] for sequence in sequences]
        batch["position_ids"] = torch.from_numpy(np.stack([_positions(line, width) for line in lengths]))
        if self.shifted and "labels" in batch:
            batch["labels"][batch["position_ids"] == 0] = IGNORED
        return batch


def _positions(lengths: list[int], width: int) -> Indices:
    """Return positions that restart with each example and with the padding, `(width,)`."""
    return np.concatenate([np.arange(length) for length in (*lengths, width - sum(lengths))])


def build(task: Task, seq_length: int, window: int) -> PackingBatcher:
    """Return the batcher of a task.

    Raises:
        IncompatibleError: the task's loss is not over tokens, or one of its columns has no value for each token.
    """
    columns = dict(task.collated())
    if task.unit != "token" or "input_ids" not in columns:
        raise IncompatibleError(
            f"'packing' needs a task whose loss is over tokens, and this one counts by {task.unit};"
            " add '--plugin no:packing'"
        )
    for name, column in columns.items():
        if not column.type.startswith("list"):
            raise IncompatibleError(
                f"the task's column '{name}' has one value an example, which packed examples cannot share;"
                " add '--plugin no:packing'"
            )
    return PackingBatcher(columns, seq_length, window, "CausalLM" in task.model_class)
