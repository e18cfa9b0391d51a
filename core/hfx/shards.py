"""Tensors by name in one safetensors file a rank, planned by torch's DCP, hashed while they are written.

The files are those of DCP's Hugging Face storage, whose reader reads them. Its writer would hold all of a rank's bytes
in memory once more; this one holds no copy of tensors that lie in the host's memory.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load as load_sharded
from torch.distributed.checkpoint.state_dict_saver import save as save_sharded
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from hfx.commit import FileSum
from hfx.errors import StorageError
from hfx.hashed import Hashed

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup
    from torch.distributed.checkpoint.metadata import Metadata
    from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem

    from hfx.protocols import World

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2", torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
    torch.bool: "BOOL", torch.complex64: "C64",
}  # fmt: skip
"""What safetensors calls torch's dtypes."""
_A_TENSOR = 1024
"""Bytes that a tensor takes at most beside its content, in a header and in the manifest."""


def file_of(rank: int) -> str:
    """Return the name of a rank's file."""
    return f"shard-{rank + 1:05d}-model-00001-of-00001.safetensors"


def needed(tensors: dict[str, Tensor], world: World) -> int:
    """Return the bytes that all ranks together write at most, whoever holds what."""
    content = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    return content + _A_TENSOR * len(tensors) * (world.size + 1) + max(2**20, content // 100)


def write(
    folder: Path, tensors: dict[str, Tensor], world: World, group: ProcessGroup | None = None
) -> FileSum | OSError | None:
    """Write this rank's share; every rank calls it.

    Returns:
        The sum of this rank's file, which is on disk; None if its share is empty; or why it could not be written, so
        that no rank leaves while the others wait for it.
    """
    writer = _Writer(folder / file_of(world.rank))
    if world.size == 1:
        writer.write([_whole(name, tensor) for name, tensor in tensors.items()])
        return writer.result
    with _plainly(world.rank):
        save_sharded(dict(tensors), storage_writer=writer, process_group=group)
    return writer.result


def read(folder: Path, files: Sequence[str], into: dict[str, Tensor], world_size: int) -> None:
    """Fill tensors, plain or sharded, from these files of a folder; whatever else lies there is not looked at."""
    with _plainly(rank=0):
        load_sharded(dict(into), storage_reader=_reader(folder, files), no_dist=world_size == 1)


def check(folder: Path, files: Sequence[str], tensors: dict[str, tuple[tuple[int, ...], str]]) -> None:
    """Compare the files' headers with the tensors that they are to hold, down to the last row.

    Raises:
        StorageError: a header is no header, or tensors or parts of them are missing.
    """
    try:
        # The library reads no header of more than 100 MB, nor one that the file's size contradicts.
        found = _reader(folder, files).read_metadata().state_dict_metadata
        for name, (shape, dtype) in tensors.items():
            held: Any = found[name]
            pieces = 0
            for chunk in held.chunks:
                ends = [offset + size for offset, size in zip(chunk.offsets, chunk.sizes, strict=True)]
                if min(chunk.offsets, default=0) < 0 or any(e > s for e, s in zip(ends, shape, strict=True)):
                    raise ValueError(f"a part of '{name}' lies outside of it")
                pieces += chunk.sizes.numel()
            if str(held.properties.dtype) != dtype or pieces != torch.Size(shape).numel():
                raise ValueError(f"'{name}' is not whole, or of another dtype")
    except Exception as error:  # there are many ways to be no header
        said = str(error).partition("\n")[0]
        raise StorageError(f"the shards in '{folder}' cannot be read: {said}; the checkpoint is damaged") from error


class _Listed(FileSystem):
    """A file system whose folder holds what a manifest says."""

    def __init__(self, folder: Path, files: Sequence[str]) -> None:
        self._files = [str(folder / name) for name in files if name.endswith(".safetensors")]

    def ls(self, path: str | os.PathLike[str]) -> list[str]:
        return self._files


def _reader(folder: Path, files: Sequence[str]) -> HuggingFaceStorageReader:
    reader = HuggingFaceStorageReader(str(folder))
    reader.fs = _Listed(folder, files)
    return reader


class _Writer(StorageWriter):
    """Writes what DCP planned for this rank into one file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.result: FileSum | OSError | None = None

    def write(self, slots: list[_Slot]) -> None:
        """Write them, and keep the result."""
        try:
            self.result = _write_file(self._file, slots) if slots else None
        except OSError as error:
            self.result = error

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's items."""
        self.write([_planned(item, planner) for item in plan.items])
        done: Future[list[WriteResult]] = Future()
        done.set_result([])
        return done

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Do nothing: there is one writer a checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the folder is there."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Return the plan."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Return the plans."""
        return plans

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Do nothing: the manifest is the commit."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Take any."""
        return True


@dataclass
class _Slot:
    """A tensor, or a rank's part of one, and where that begins in the whole."""

    name: str
    shape: list[int]
    dtype: torch.dtype
    offsets: list[int]
    tensor: Callable[[], Tensor]

    @property
    def size(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def _whole(name: str, tensor: Any) -> _Slot:
    def local() -> Tensor:
        found: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        return found

    return _Slot(name, list(tensor.shape), tensor.dtype, [0] * tensor.dim(), local)


def _planned(item: WriteItem, planner: SavePlanner) -> _Slot:
    data = item.tensor_data
    if data is None:
        raise ValueError(f"'{item.index.fqn}' is no tensor")

    def local() -> Tensor:
        return cast("Tensor", planner.resolve_data(item))

    return _Slot(item.index.fqn, list(data.chunk.sizes), data.properties.dtype, list(data.chunk.offsets), local)


def _in_order(slots: list[_Slot]) -> list[_Slot]:
    """Return them in the order of safetensors: by falling alignment, so that each content is aligned."""
    for slot in slots:
        if slot.dtype not in DTYPES:
            raise ValueError(f"'{slot.name}' is of {slot.dtype}, which safetensors cannot hold")
    if len({slot.name for slot in slots}) != len(slots):
        raise ValueError("a rank holds two parts of one tensor, which one file cannot")
    return sorted(slots, key=lambda slot: (-slot.dtype.itemsize, slot.name))


def _header(slots: list[_Slot]) -> bytes:
    sharding = {slot.name: {"saved_offsets": slot.offsets} for slot in slots}
    header: dict[str, Any] = {
        "__metadata__": {"DCP_SHARDING_INFO": json.dumps(sharding), "DCP_VERSION": "1.0", "format": "pt"}
    }
    at = 0
    for slot in slots:
        end = at + slot.size
        header[slot.name] = {"dtype": DTYPES[slot.dtype], "shape": slot.shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_file(path: Path, slots: list[_Slot]) -> FileSum:
    slots = _in_order(slots)
    with path.open("xb", buffering=0) as file, Hashed(file) as stream:
        stream.write(memoryview(_header(slots)))
        for slot in slots:
            stream.write(_content(slot.tensor()))
        stream.flush()
        os.fsync(file.fileno())  # hashing catches up meanwhile
        return stream.sum()


def _content(tensor: Any) -> memoryview:
    flat: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(flat)


@contextmanager
def _plainly(rank: int) -> Iterator[None]:
    """Keep DCP's remark on a single process to itself, and raise what was raised where DCP wraps it."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
            yield
    except CheckpointException as error:
        failures = error.failures
        failed = rank if rank in failures else min(failures)
        raise failures[failed][0] from error
