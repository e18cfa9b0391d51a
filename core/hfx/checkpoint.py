"""Checkpoints: tensors by name as sharded safetensors, the rest as JSON, committed by a manifest; no pickle anywhere.

    checkpoints/step-00000100/
        shard-00001-model-00001-of-00001.safetensors    one or more a rank (torch's DCP, Hugging Face storage)
        state.json                                      position, counters, schedule, groups, plugins' values
        MANIFEST.json                                   sizes and hashes of all of them: its appearance is the commit

A folder without a valid manifest does not exist.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfx.errors import StorageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from hfx.protocols import Backend, Values, World

FORMAT = 1
MANIFEST = "MANIFEST.json"
_STEP = re.compile(r"step-(\d{8,})")
log = logging.getLogger("hfx")


def folder_of(output: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return output / "checkpoints" / f"step-{step:08d}"


def save(path: Path, tensors: dict[str, Tensor], values: Values, world: World, backend: Backend) -> None:
    """Write a checkpoint; every rank calls it, and it exists once this returns.

    Raises:
        StorageError: the disk is full or refuses.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save as save_sharded

    try:
        if world.is_main:
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
        backend.barrier()
        writer = HuggingFaceStorageWriter(path=str(path), save_distributed=True)
        with _quiet():
            save_sharded(dict(tensors), storage_writer=writer, no_dist=world.size == 1)
        backend.barrier()
        if world.is_main:
            (path / "state.json").write_text(json.dumps(values))
            _commit(path, {name: [list(t.shape), str(t.dtype)] for name, t in tensors.items()})
        backend.barrier()
    except OSError as error:
        raise StorageError(
            f"cannot write the checkpoint '{path}': {error}; free space, or choose another 'output'"
        ) from error


def _commit(path: Path, tensors: dict[str, Any]) -> None:
    files = {}
    for file in sorted(path.iterdir()):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
            files[file.name] = {
                "size": file.stat().st_size,
                "sha256": hashlib.file_digest(handle, "sha256").hexdigest(),
            }
    partial = path / f"{MANIFEST}.partial"
    with partial.open("w") as handle:
        json.dump({"format": FORMAT, "files": files, "tensors": tensors}, handle)
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(path / MANIFEST)
    for folder in (path, path.parent):
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


@dataclass
class Checkpoint:
    """A valid checkpoint on disk: its tensors and values. Implements `protocols.StateReader`."""

    path: Path
    step: int
    tensors: dict[str, tuple[tuple[int, ...], str]]
    state: Values
    world_size: int = 1

    @property
    def values(self) -> Values:
        """The JSON values the backend saved."""
        found: Values = self.state["backend"]
        return found

    def names(self) -> list[str]:
        """Return the tensors' names."""
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the full shape of a tensor."""
        return self.tensors[name][0]

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor."""
        import torch

        found: torch.dtype = getattr(torch, self.tensors[name][1].removeprefix("torch."))
        return found

    def read(self, into: dict[str, Tensor]) -> None:
        """Fill tensors, plain or sharded, in place.

        Raises:
            StorageError: a tensor is missing, or of another shape or dtype.
        """
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
        from torch.distributed.checkpoint.state_dict_loader import load as load_sharded

        for name, tensor in into.items():
            saved = self.tensors.get(name)
            # DCP casts a differing dtype and leaves a missing row at its old value, both without a word.
            if saved is None or saved != (tuple(tensor.shape), str(tensor.dtype)):
                raise StorageError(
                    f"'{name}' is {saved or 'missing'} in '{self.path}' and {tuple(tensor.shape)} of {tensor.dtype} "
                    "in this run; resume with the model and the precision it was saved with"
                )
        with _quiet():
            load_sharded(
                dict(into), storage_reader=HuggingFaceStorageReader(str(self.path)), no_dist=self.world_size == 1
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep DCP's remark on a single process to itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield


def open_checkpoint(path: Path, world_size: int) -> Checkpoint:
    """Return a checkpoint after checking every file against its manifest.

    Raises:
        StorageError: the manifest or a file is missing, or a size or hash differs.
    """
    match = _STEP.fullmatch(path.name)
    if match is None or not (path / MANIFEST).is_file():
        raise StorageError(f"'{path}' is no checkpoint: it has no {MANIFEST}")
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        for name, expected in manifest["files"].items():
            file = path / Path(name).name
            if not file.is_file() or file.stat().st_size != expected["size"]:
                raise StorageError(f"'{file}' is missing or cut short; the checkpoint is damaged")
            with file.open("rb") as handle:
                if hashlib.file_digest(handle, "sha256").hexdigest() != expected["sha256"]:
                    raise StorageError(f"'{file}' differs from what was written; the checkpoint is damaged")
        state = json.loads((path / "state.json").read_text())
        tensors = {name: (tuple(shape), dtype) for name, (shape, dtype) in manifest["tensors"].items()}
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"'{path / MANIFEST}' cannot be read: {error}; the checkpoint is damaged") from error
    return Checkpoint(path, int(match[1]), tensors, state, world_size)


def steps_on_disk(output: Path) -> list[Path]:
    """Return the committed checkpoints of a run, newest first."""
    found = [p for p in (output / "checkpoints").glob("step-*") if _STEP.fullmatch(p.name) and (p / MANIFEST).is_file()]
    return sorted(found, reverse=True)


def newest(output: Path, world_size: int) -> Checkpoint | None:
    """Return the newest valid checkpoint of a run; a damaged one is named and the one before it used.

    Raises:
        StorageError: there are checkpoints, and all of them are damaged.
    """
    failed: StorageError | None = None
    for path in steps_on_disk(output):
        try:
            return open_checkpoint(path, world_size)
        except StorageError as error:
            log.warning("%s; using the one before it", error)
            failed = error
    if failed:
        raise StorageError(f"every checkpoint of '{output}' is damaged; begin anew with another 'output'") from failed
    return None


def rotate(output: Path, keep: int) -> None:
    """Delete all but the newest checkpoints, and folders that were never committed."""
    committed = steps_on_disk(output)
    for path in committed[keep:]:
        (path / MANIFEST).unlink()  # first of all, so that half a folder is never taken for a checkpoint
        shutil.rmtree(path)
    for path in (output / "checkpoints").iterdir():
        if not (path / MANIFEST).is_file():
            shutil.rmtree(path)
