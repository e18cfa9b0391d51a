"""A checkpoint exists once its manifest does, and what its manifest says is checked."""

from __future__ import annotations

import json
import logging
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from safetensors.torch import _TYPES

from hfx import World
from hfx.checkpoint import MANIFEST, folder_of, newest, open_checkpoint, steps_on_disk
from hfx.errors import StorageError
from hfx.record import Record
from hfx.saving import rotate, save
from hfx.shards import DTYPES, content_of
from saved import Alone, assert_loads, saved, state, tensors


def names(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "checkpoints").iterdir())


def shard_of(path: Path) -> Path:
    return next(path.glob("*.safetensors"))


def forge(path: Path, **replaced: Any) -> None:
    """Write a manifest that fits the files as they are now, and itself: damage that only its content shows."""
    body = json.loads((path / MANIFEST).read_text())
    del body["xxh3_128"]
    for name in body["files"]:
        content = (path / name).read_bytes()
        body["files"][name] = {"size": len(content), "xxh3_128": xxhash.xxh3_128_hexdigest(content)}
    body |= replaced
    (path / MANIFEST).write_text(json.dumps(body | {"xxh3_128": xxhash.xxh3_128_hexdigest(json.dumps(body).encode())}))


def test_tensors_come_back_to_the_bit(tmp_path: Path) -> None:
    found = open_checkpoint(saved(tmp_path, 7), 1)
    assert found.step == 7
    assert_loads(found)


def test_every_dtype_of_safetensors_can_be_saved() -> None:
    assert {name: dtype for dtype, name in DTYPES.items()} == _TYPES


@pytest.mark.parametrize("count", [1, 2000])
def test_large_and_many_tensors_come_back_to_the_bit(count: int, tmp_path: Path) -> None:
    many = {f"model.{number}": torch.randn(9_000_000 // count) for number in range(count)}
    path = folder_of(tmp_path, 1)
    save(path, many, state(1), World(), Alone())
    into = {name: torch.zeros_like(tensor) for name, tensor in many.items()}
    open_checkpoint(path, 1).read(into)
    assert all(torch.equal(into[name], tensor) for name, tensor in many.items())


def test_a_view_and_a_transposed_tensor_come_back_as_they_are_seen(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    seen = {"model.t": whole.t(), "model.row": whole[1]}
    path = folder_of(tmp_path, 1)
    save(path, seen, state(1), World(), Alone())
    into = {name: torch.zeros(tensor.shape) for name, tensor in seen.items()}
    open_checkpoint(path, 1).read(into)
    assert all(torch.equal(into[name], tensor) for name, tensor in seen.items())
    assert shard_of(path).stat().st_size < 1000


def test_the_forecast_is_not_less_than_what_is_written_nor_much_more(tmp_path: Path) -> None:
    many = {f"model.layers.{number}.weight": torch.zeros(1000) for number in range(3000)}
    path = folder_of(tmp_path, 1)
    save(path, many, state(1), World(), Alone())
    written = sum(file.stat().st_size for file in path.iterdir())
    assert written <= content_of(many, World()).needed < 2 * written


def test_a_folder_without_a_manifest_does_not_exist(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    (saved(tmp_path, 2) / MANIFEST).unlink()
    assert [path.name for path in steps_on_disk(tmp_path)] == ["step-00000001"]


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_a_damaged_file_sends_the_run_to_the_checkpoint_before(damage: str, tmp_path: Path) -> None:
    saved(tmp_path, 1)
    shard = shard_of(saved(tmp_path, 2))
    content = shard.read_bytes()
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    found = newest(tmp_path, 1)
    assert found is not None
    assert found.step == 1


def test_when_all_are_damaged_the_run_is_refused(tmp_path: Path) -> None:
    shard_of(saved(tmp_path, 1)).write_bytes(b"")
    with pytest.raises(StorageError):
        newest(tmp_path, 1)


def test_a_tensor_of_another_shape_or_dtype_is_refused_by_name(tmp_path: Path) -> None:
    found = open_checkpoint(saved(tmp_path, 1), 1)
    for wrong in (torch.zeros(2, 2), torch.zeros(300, 20, dtype=torch.bfloat16)):
        with pytest.raises(StorageError, match=r"model\.w"):
            found.read({"model.w": wrong})


# ── what lies in a folder that no checkpoint would hold ──────────────────────────────────────────────────────────────


def test_foreign_files_are_not_read(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    other = saved(tmp_path, 2)
    shutil.copy(shard_of(other), path / "shard-00002-model-00001-of-00001.safetensors")
    (path / "broken.safetensors").write_bytes(b"\xff" * 100)
    (path / "folder").mkdir()
    (tmp_path / "checkpoints" / "step-00000009").write_text("a file")
    (tmp_path / "checkpoints" / "notes").mkdir()
    shutil.rmtree(other)
    found = newest(tmp_path, 1)
    assert found is not None
    assert_loads(found)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    for name in (shard_of(path).name, MANIFEST):
        shutil.copytree(path, tmp_path / "step-00000001", dirs_exist_ok=True)
        file = tmp_path / "step-00000001" / name
        file.unlink()
        file.symlink_to(path / name)
        with pytest.raises(StorageError, match="link out of its folder"):
            open_checkpoint(tmp_path / "step-00000001", 1)
        file.unlink()


def test_a_manifest_that_names_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    secret = path.parent / "secret"
    secret.write_text("x")
    files = {"../secret": {"size": 1, "xxh3_128": xxhash.xxh3_128_hexdigest(b"x")}}
    forge(path, files=files)
    with pytest.raises(StorageError, match="no file's name"):
        open_checkpoint(path, 1)


def test_a_named_pipe_in_place_of_a_file_does_not_block(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    shard_of(path).unlink()
    os.mkfifo(path / "shard-00001-model-00001-of-00001.safetensors")
    with pytest.raises(StorageError, match="missing or cut short"):
        open_checkpoint(path, 1)


@pytest.mark.parametrize("length", [2**63 - 1, 2**64 - 1, 10**9, 0, 3])
def test_a_wrong_length_of_a_header_is_damage_even_if_the_manifest_agrees(length: int, tmp_path: Path) -> None:
    saved(tmp_path, 1)
    path = saved(tmp_path, 2)
    shard = shard_of(path)
    shard.write_bytes(struct.pack("<Q", length) + shard.read_bytes()[8:])
    forge(path)
    with pytest.raises(StorageError, match=r"the shards in .* cannot be read"):
        open_checkpoint(path, 1)
    found = newest(tmp_path, 1)
    assert found is not None
    assert found.step == 1


def header_of(shard: Path) -> dict[str, Any]:
    content = shard.read_bytes()
    header: dict[str, Any] = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    return header


def write_header(shard: Path, header: dict[str, Any]) -> None:
    content = shard.read_bytes()
    data = content[8 + struct.unpack("<Q", content[:8])[0] :]
    text = json.dumps(header).encode()
    shard.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [10**15, 20]},
        {"shape": [-300, 20]},
        {"data_offsets": [-8, 10**15]},
        {"dtype": "PICKLE"},
        {"dtype": "I32"},
        {"shape": [20, 300]},
    ],
    ids=str,
)
def test_a_forged_header_is_damage(change: dict[str, Any], tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    header = header_of(shard_of(path))
    header["model.w"] |= change
    write_header(shard_of(path), header)
    forge(path)
    with pytest.raises(StorageError, match=r"the shards in .* cannot be read"):
        open_checkpoint(path, 1)


@pytest.mark.parametrize("offsets", [[-1, 0], [1, 0], [10**12, 0], [], "x"], ids=str)
def test_a_part_that_lies_outside_its_tensor_is_damage(offsets: Any, tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    header = header_of(shard_of(path))
    sharding = json.loads(header["__metadata__"]["DCP_SHARDING_INFO"])
    sharding["model.w"]["saved_offsets"] = offsets
    header["__metadata__"]["DCP_SHARDING_INFO"] = json.dumps(sharding)
    write_header(shard_of(path), header)
    forge(path)
    with pytest.raises(StorageError, match="damaged"):
        open_checkpoint(path, 1)


@pytest.mark.parametrize(
    "text", ["[]", "1", "{}", "nonsense", "[" * 100_000, '{"step": 1}', "\udcff", '{"step": "2"}'],
    ids=["list", "number", "empty", "words", "deep", "one value", "no text", "a wrong type"],
)  # fmt: skip
def test_a_state_of_another_shape_is_damage_that_is_named(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path, 1)
    path = saved(tmp_path, 2)
    (path / "state.json").write_bytes(text.encode(errors="surrogateescape"))
    forge(path)
    with caplog.at_level(logging.WARNING, "hfx"):
        found = newest(tmp_path, 1)
    assert found is not None
    assert found.step == 1
    assert f"'{path / 'state.json'}' cannot be used" in caplog.text


def test_the_state_of_another_step_is_damage(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    path.rename(folder_of(tmp_path, 2))
    with pytest.raises(StorageError, match="of step 1"):
        open_checkpoint(folder_of(tmp_path, 2), 1)


def test_a_manifest_of_another_format_says_so(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    forge(path, format=1)
    with pytest.raises(StorageError, match="of format 1, and this version of hfx reads format 2"):
        open_checkpoint(path, 1)


def test_a_manifest_that_does_not_end_is_not_read_into_memory(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    with (path / MANIFEST).open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(StorageError, match="longer than"):
        open_checkpoint(path, 1)


# ── rotation ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rotation_keeps_the_newest_and_removes_what_was_never_committed(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        saved(tmp_path, step)
    (tmp_path / "checkpoints" / "step-00000004.new").mkdir()
    (tmp_path / "checkpoints" / "step-00000000.old").mkdir()
    rotate(tmp_path, 2)
    assert names(tmp_path) == ["step-00000002", "step-00000003"]


def test_rotation_keeps_the_chosen_one_whatever_its_age_even_for_want_of_room(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        saved(tmp_path, step)
    rotate(tmp_path, 3, chosen=1)
    assert names(tmp_path) == ["step-00000001", "step-00000003", "step-00000004", "step-00000005"]
    rotate(tmp_path, 2, in_need=True, chosen=1)
    assert names(tmp_path) == ["step-00000001", "step-00000004", "step-00000005"]
    rotate(tmp_path, 2, chosen=5)
    assert names(tmp_path) == ["step-00000004", "step-00000005"]


def test_rotation_keeps_what_a_checkpoint_that_stays_had_chosen(tmp_path: Path) -> None:
    for step, chosen in ((4, 4), (6, 4), (7, 4), (8, 8)):
        saved(tmp_path, step, chosen)
    rotate(tmp_path, 2, step=8, chosen=8)
    assert names(tmp_path) == ["step-00000004", "step-00000007", "step-00000008"]
    saved(tmp_path, 9, 8)
    rotate(tmp_path, 2, step=9, in_need=True, chosen=9)  # 9 is to be saved anew, and chosen
    assert names(tmp_path) == ["step-00000008", "step-00000009"]


def test_a_damaged_checkpoint_is_not_counted_and_goes_once_it_is_older_than_two_valid_ones(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        saved(tmp_path, step)
    shard_of(folder_of(tmp_path, 2)).write_bytes(b"short")
    rotate(tmp_path, 2)
    assert names(tmp_path) == ["step-00000001", "step-00000002", "step-00000003"]
    saved(tmp_path, 4)
    rotate(tmp_path, 2)
    assert names(tmp_path) == ["step-00000003", "step-00000004"]


def test_a_checkpoint_that_the_run_did_not_go_on_from_is_not_counted(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        saved(tmp_path, step)
    content = bytearray(shard_of(folder_of(tmp_path, 6)).read_bytes())
    content[-1] ^= 1  # its size is right, so only resuming finds it
    shard_of(folder_of(tmp_path, 6)).write_bytes(content)
    saved(tmp_path, 5)
    rotate(tmp_path, 2, step=5)
    assert names(tmp_path) == ["step-00000004", "step-00000005", "step-00000006"]


def test_a_save_over_the_same_step_leaves_the_new_one(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    save(path, {"model.w": torch.ones(2)}, state(1), World(), Alone())
    assert names(tmp_path) == ["step-00000001"]
    assert open_checkpoint(path, 1).shape("model.w") == (2,)


def test_a_save_over_the_same_step_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    (tmp_path / "checkpoints" / "step-00000001.new").write_text("in the way")
    with pytest.raises(StorageError, match=r"'hfx train --resume .*' goes on from 'step-00000001', which is intact"):
        saved(tmp_path, 1)
    assert_loads(open_checkpoint(path, 1))


def test_a_new_one_that_was_committed_and_not_renamed_counts_and_is_renamed_by_the_next_save(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    path = saved(tmp_path, 2)
    path.rename(path.with_name(path.name + ".new"))
    found = newest(tmp_path, 1)
    assert found is not None
    assert_loads(found)
    assert found.step == 2
    saved(tmp_path, 3)
    assert names(tmp_path) == ["step-00000001", "step-00000002", "step-00000003"]


# ── a disk without room ──────────────────────────────────────────────────────────────────────────────────────────────


def large(tmp_path: Path, factor: float) -> dict[str, torch.Tensor]:
    """Return a tensor of a multiple of the free space, of which no byte exists."""
    count = int(shutil.disk_usage(tmp_path).free * factor) // 4
    return {"model.w": torch.zeros(1).expand(count)}


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    with pytest.raises(StorageError, match=r"it needs [\d,]+ bytes, and [\d,]+ are free; free space, then 'hfx train"):
        save(folder_of(tmp_path, 2), large(tmp_path, 1.5), state(2), World(), Alone())
    assert names(tmp_path) == ["step-00000001"]
    assert newest(tmp_path, 1) is not None


def test_where_room_is_short_all_but_two_valid_checkpoints_go(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 9):
        saved(tmp_path, step)
    shard_of(folder_of(tmp_path, 3)).write_bytes(b"short")
    with pytest.raises(StorageError, match="are free"):
        save(folder_of(tmp_path, 5), large(tmp_path, 1.5), state(5), World(), Alone())
    assert names(tmp_path) == ["step-00000002", "step-00000004"]


def test_the_first_checkpoint_that_does_not_fit_says_that_there_is_none_before(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="begins anew, since none was saved before"):
        save(folder_of(tmp_path, 1), large(tmp_path, 1.5), state(1), World(), Alone())
    assert names(tmp_path) == []


# ── records ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_cutting_a_record_keeps_what_it_cuts_and_drops_a_torn_line(tmp_path: Path) -> None:
    record = Record(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        record.append({"step": step})
    with record.path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert record.cut(2) == 2
    assert record.path.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert '{"step": 3}' in (tmp_path / "metrics.after-2.jsonl").read_text()


def test_a_saved_tensor_is_not_changed(tmp_path: Path) -> None:
    before = tensors(1)
    path = folder_of(tmp_path, 1)
    save(path, before, state(1), World(), Alone())
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors(1).items())
