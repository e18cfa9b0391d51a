from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hfx import ColumnType
from hfx.errors import PluginError
from hfx_plugins.batching.padding import Padding

COLUMNS = {
    "input_ids": ColumnType("list<int32>", 7),
    "labels": ColumnType("list<int32>", -100),
    "weights": ColumnType("list<float32>", 0.5),
    "label": ColumnType("int32"),
    "score": ColumnType("float32"),
}


class Columns:
    def __init__(self, columns):
        self.columns = columns

    def collated(self):
        return self.columns


class Tasked:
    def __init__(self, columns=COLUMNS):
        self.task = Columns(columns)


def example(ids, label=1):
    ids = np.array(ids, dtype=np.int32)
    return {"input_ids": ids, "labels": -ids, "weights": ids / 2, "label": label, "score": label / 4}


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9), min_size=1, max_size=6), st.integers(1, 8))
def test_what_the_mask_keeps_is_what_went_in(rows, multiple):
    batch = Padding(pad_to_multiple_of=multiple).hfx_batcher(Tasked()).collate([[example(ids)] for ids in rows])
    width = batch["input_ids"].shape[1]
    assert width % multiple == 0
    assert max(map(len, rows)) <= width < max(map(len, rows)) + multiple
    for index, ids in enumerate(rows):
        mask = batch["attention_mask"][index].bool()
        assert mask.tolist() == [True] * len(ids) + [False] * (width - len(ids))
        assert batch["input_ids"][index][mask].tolist() == ids
        assert batch["input_ids"][index][~mask].tolist() == [7] * (width - len(ids))
        assert batch["labels"][index].tolist() == [-token for token in ids] + [-100] * (width - len(ids))


def test_columns_become_tensors_of_their_kind():
    batch = Padding().hfx_batcher(Tasked()).collate([[example([1, 2], label=3)], [example([4])]])
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in batch.items()} == {
        "input_ids": (torch.int64, (2, 2)),
        "labels": (torch.int64, (2, 2)),
        "weights": (torch.float32, (2, 2)),
        "label": (torch.int64, (2,)),
        "score": (torch.float32, (2,)),
        "attention_mask": (torch.int64, (2, 2)),
    }
    assert batch["weights"].tolist() == [[0.5, 1.0], [2.0, 0.5]]
    assert batch["label"].tolist() == [3, 1]


def test_there_is_no_mask_where_there_are_no_input_ids():
    batcher = Padding().hfx_batcher(Tasked({"label": ColumnType("int32")}))
    assert set(batcher.collate([[{"label": 1}]])) == {"label"}


@given(st.lists(st.integers(0, 99), max_size=20))
def test_every_row_is_a_sequence_of_its_own_in_order(rows):
    batcher = Padding().hfx_batcher(Tasked())
    groups = batcher.groups(np.array(rows, dtype=np.int64), np.ones(len(rows), dtype=np.int64))
    assert [group.tolist() for group in groups] == [[row] for row in rows]
    assert batcher.window == 1


def test_a_column_that_is_no_number_is_refused():
    batcher = Padding().hfx_batcher(Tasked({"name": ColumnType("string")}))
    with pytest.raises(PluginError, match="type 'string' cannot be put into a batch"):
        batcher.collate([[{"name": "x"}]])


def test_the_batcher_travels_to_other_processes():
    batcher = Padding(pad_to_multiple_of=4).hfx_batcher(Tasked())
    assert pickle.loads(pickle.dumps(batcher)) == batcher  # noqa: S301
