"""Tensors by name in one safetensors file a rank, hashed while they are written, and read by torch's DCP.

The files are those of DCP's Hugging Face storage. Its writer would hold all of a rank's bytes in memory once more; this
one holds no copy of tensors that lie in the host's memory. Who writes what follows from names and shapes, so the ranks
need not talk about it, as DCP's planner does.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load as load_sharded
from torch.distributed.tensor import DTensor

from hfx.commit import FileSum
from hfx.errors import StorageError
from hfx.hashed import Hashed

if TYPE_CHECKING:
    from torch import Tensor

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


@dataclass(frozen=True)
class Part:
    """A tensor, or a rank's part of one, and where that begins in the whole."""

    name: str
    tensor: Tensor
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class Content:
    """What the ranks save together, and what this one writes of it."""

    tensors: dict[str, tuple[tuple[int, ...], str]]
    """All tensors, with their full shape and dtype."""
    parts: list[Part]
    """What this rank writes, in the order of its file."""
    size: int
    """Bytes of all tensors."""
    needed: int
    """Bytes that all ranks together write at most."""


def content_of(tensors: dict[str, Tensor], world: World) -> Content:
    """Share the writing out over the ranks: a part of a sharded tensor to who holds it, whole ones by their size.

    Every rank comes to the same without asking the others, since all have tensors of the same names and shapes.
    """
    size = sum(map(_size, tensors.values()))
    given = [0] * world.size
    parts: list[Part] = []
    for name in sorted(tensors, key=lambda name: (-_size(tensors[name]), name)):
        tensor = tensors[name]
        if isinstance(tensor, DTensor):
            parts += _shard(name, tensor)
            continue
        writer = given.index(min(given))
        given[writer] += _size(tensor) + _A_TENSOR
        if writer == world.rank:
            parts.append(Part(name, tensor, (0,) * tensor.dim()))
    needed = size + _A_TENSOR * len(tensors) * (world.size + 1) + max(2**20, size // 100)
    listed = {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors.items()}
    return Content(listed, _in_order(parts), size, needed)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _shard(name: str, tensor: DTensor) -> list[Part]:
    """Return what this rank writes of a sharded tensor; of copies the first is written."""
    place = tensor.device_mesh.get_coordinate()
    pairs = None if place is None else zip(place, tensor.placements, strict=True)
    if pairs is None or any(at and placement.is_replicate() for at, placement in pairs):
        return []
    local = tensor.to_local()
    if not local.numel() and tensor.numel():
        return []  # more ranks than rows
    chunks: Any = tensor.__create_chunk_list__()  # type: ignore[no-untyped-call]
    return [Part(name, local, tuple(chunk.offsets)) for chunk in chunks]


def write(folder: Path, parts: list[Part], rank: int) -> FileSum | OSError | None:
    """Write a rank's file.

    Returns:
        The sum of the file, which is on disk; None where there is nothing to write; or why it could not be written, so
        that no rank leaves while the others wait for it.
    """
    try:
        return _write_file(folder / file_of(rank), parts) if parts else None
    except OSError as error:
        return error


def read(folder: Path, files: Sequence[str], into: dict[str, Tensor], world_size: int) -> None:
    """Fill tensors, plain or sharded, from these files of a folder; whatever else lies there is not looked at."""
    with _plainly():
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


def _in_order(parts: list[Part]) -> list[Part]:
    """Return them in the order of safetensors: by falling alignment, so that each content is aligned."""
    for part in parts:
        if part.tensor.dtype not in DTYPES:
            raise ValueError(f"'{part.name}' is of {part.tensor.dtype}, which safetensors cannot hold")
    return sorted(parts, key=lambda part: (-part.tensor.element_size(), part.name))


def _header(parts: list[Part]) -> bytes:
    sharding = {part.name: {"saved_offsets": part.offsets} for part in parts}
    header: dict[str, Any] = {
        "__metadata__": {"DCP_SHARDING_INFO": json.dumps(sharding), "DCP_VERSION": "1.0", "format": "pt"}
    }
    at = 0
    for part in parts:
        tensor, end = part.tensor, at + _size(part.tensor)
        header[part.name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_file(path: Path, parts: list[Part]) -> FileSum:
    with path.open("xb", buffering=0) as file, Hashed(file) as stream:
        stream.write(memoryview(_header(parts)))
        for part in parts:
            stream.write(_bytes_of(part.tensor))
        stream.flush()
        os.fsync(file.fileno())  # hashing catches up meanwhile
        return stream.sum()


def _bytes_of(tensor: Tensor) -> memoryview:
    flat: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(flat)


@contextmanager
def _plainly() -> Iterator[None]:
    """Keep DCP's remark on a single process to itself, and raise what was raised where DCP wraps it."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
            yield
    except CheckpointException as error:
        raise error.failures[min(error.failures)][0] from error
