"""The collating of wrong batchers, which needs torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from hfx import ColumnType
from hfx_plugins.batching.padding_impl import PaddingBatcher


class ZeroLabels(PaddingBatcher):
    def collate(self, sequences: Any) -> Any:
        return PaddingBatcher({**self.columns, "labels": ColumnType("list<int32>", 0)}).collate(sequences)


class Cutting(PaddingBatcher):
    def collate(self, sequences: Any) -> Any:
        return {name: tensor[:, :8] for name, tensor in super().collate(sequences).items()}


class Losing(PaddingBatcher):
    def groups(self, rows: Any, lengths: Any) -> Any:
        return [rows[index : index + 1] for index in range(len(rows)) if rows[index] % 5 != 4]


class Leaking(PaddingBatcher):
    most = 0

    def groups(self, rows: Any, lengths: Any) -> Any:
        return [rows] if lengths.sum() <= self.most else super().groups(rows, lengths)

    def collate(self, sequences: Any) -> Any:
        joined = [[{name: np.concatenate([one[name] for one in many]) for name in many[0]}] for many in sequences]
        return super().collate(joined)


class Chance(PaddingBatcher):
    def groups(self, rows: Any, lengths: Any) -> Any:
        return super().groups(np.random.permutation(rows), lengths)


class Wide(PaddingBatcher):
    def collate(self, sequences: Any) -> Any:
        import torch

        batch = super().collate(sequences)
        pads = {name: torch.full_like(tensor[:1], -100 if name == "labels" else 0) for name, tensor in batch.items()}
        return {name: torch.cat([tensor, pads[name]]) for name, tensor in batch.items()}
