"""Padding lists of numbers into tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hfx import ColumnType
from hfx.errors import PluginError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hfx.protocols import Batch, Indices, Values


@dataclass
class PaddingBatcher:
    """Every example is its own sequence; `attention_mask` marks the real positions of `input_ids`."""

    columns: dict[str, ColumnType]
    multiple: int = 1
    window: int = 1

    def groups(self, rows: Indices, lengths: Indices) -> list[Indices]:
        """Return one array per row."""
        return [rows[index : index + 1] for index in range(len(rows))]

    def collate(self, sequences: list[list[Values]]) -> Batch:
        """Return `(batch, seq)` tensors of list columns and `(batch,)` tensors of scalar ones."""
        examples = [sequence[0] for sequence in sequences]
        batch: Batch = {}
        for name, column in self.columns.items():
            values = [example[name] for example in examples]
            if column.type.startswith("list"):
                batch[name] = self._padded(values, column)
            else:
                batch[name] = torch.from_numpy(np.array(values, _NUMPY[_dtype(column.type)]))
        if "input_ids" in batch:
            lengths = torch.tensor([len(example["input_ids"]) for example in examples])
            positions = torch.arange(batch["input_ids"].shape[1])
            batch["attention_mask"] = (positions < lengths[:, None]).long()
        return batch

    def _padded(self, values: list[Any], column: ColumnType) -> torch.Tensor:
        width = -(-max(len(value) for value in values) // self.multiple) * self.multiple
        padded: NDArray[Any] = np.full((len(values), width), column.pad, _NUMPY[_dtype(column.type)])
        for row, value in zip(padded, values, strict=True):
            row[: len(value)] = value
        return torch.from_numpy(padded)


_NUMPY: dict[torch.dtype, Any] = {torch.int64: np.int64, torch.float32: np.float32}


def _dtype(arrow: str) -> torch.dtype:
    """Return the tensor type of `int32`, `list<int32>`, `float32`, `bool`, ... ."""
    inner = arrow.removeprefix("list<").removesuffix(">")
    if inner.startswith(("int", "uint", "bool")):
        return torch.int64
    if inner.startswith(("float", "double", "half")):
        return torch.float32
    raise PluginError(
        f"a column of type '{arrow}' cannot be put into a batch; use int32, int64, float32 or lists of them"
    )
