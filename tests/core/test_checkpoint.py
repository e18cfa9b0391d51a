"""A checkpoint exists once its manifest does, and what its manifest says is checked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hfx import World
from hfx.checkpoint import MANIFEST, folder_of, newest, open_checkpoint, rotate, save, steps_on_disk
from hfx.errors import StorageError
from hfx.record import Record


class Alone:
    """The part of a backend that saving uses, for one process."""

    def barrier(self) -> None:
        """Wait for nobody."""


def saved(output: Path, step: int) -> Path:
    tensors = {"model.w": torch.full((3, 2), float(step)), "optim.w.step": torch.tensor(float(step))}
    path = folder_of(output, step)
    save(path, tensors, {"step": step, "backend": {}}, World(), Alone())  # type: ignore[arg-type]
    return path


def test_tensors_come_back_to_the_bit(tmp_path: Path) -> None:
    found = open_checkpoint(saved(tmp_path, 7), 1)
    into = {"model.w": torch.zeros(3, 2), "optim.w.step": torch.zeros(())}
    found.read(into)
    assert found.step == 7
    assert torch.equal(into["model.w"], torch.full((3, 2), 7.0))
    assert into["optim.w.step"] == 7


def test_a_folder_without_a_manifest_does_not_exist(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    (saved(tmp_path, 2) / MANIFEST).unlink()
    assert [path.name for path in steps_on_disk(tmp_path)] == ["step-00000001"]


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_a_damaged_file_sends_the_run_to_the_checkpoint_before(damage: str, tmp_path: Path) -> None:
    saved(tmp_path, 1)
    shard = next(saved(tmp_path, 2).glob("*.safetensors"))
    content = shard.read_bytes()
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    found = newest(tmp_path, 1)
    assert found is not None
    assert found.step == 1


def test_when_all_are_damaged_the_run_is_refused(tmp_path: Path) -> None:
    next(saved(tmp_path, 1).glob("*.safetensors")).write_bytes(b"")
    with pytest.raises(StorageError):
        newest(tmp_path, 1)


def test_a_tensor_of_another_shape_or_dtype_is_refused_by_name(tmp_path: Path) -> None:
    found = open_checkpoint(saved(tmp_path, 1), 1)
    for wrong in (torch.zeros(2, 2), torch.zeros(3, 2, dtype=torch.bfloat16)):
        with pytest.raises(StorageError, match=r"model\.w"):
            found.read({"model.w": wrong})


def test_rotation_keeps_the_newest_and_removes_what_was_never_committed(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        saved(tmp_path, step)
    (folder_of(tmp_path, 4)).mkdir()
    rotate(tmp_path, 2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000002", "step-00000003"]


def test_cutting_a_record_keeps_what_it_cuts_and_drops_a_torn_line(tmp_path: Path) -> None:
    record = Record(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        record.append({"step": step})
    with record.path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert record.cut(2) == 2
    assert record.path.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert '{"step": 3}' in (tmp_path / "metrics.after-2.jsonl").read_text()
