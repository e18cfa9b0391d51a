"""Checkpoints: tensors by name as sharded safetensors, the rest as JSON, committed by a manifest; no pickle anywhere.

    checkpoints/step-00000100/
        shard-00001-model-00001-of-00001.safetensors    one a rank, written and hashed by it
        state.json                                      position, counters, schedule, groups, plugins' values
        MANIFEST.json                                   sizes and hashes of all of them: its appearance is the commit

A folder without a manifest does not exist. One is written as `step-00000100.new` and renamed once it is committed. How
it is written is in `saving.py`.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hfx.commit import MANIFEST, Manifest, read_text
from hfx.errors import StorageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from hfx.protocols import Values

NEW = ".new"
"""Behind the name of a checkpoint that is being written."""
_STEP = re.compile(r"step-(\d{8,})(\.new)?")
_KINDS = {
    "step": int, "epoch": int | float, "tokens_total": int, "evaluated_at": int, "total_steps": int, "world_size": int,
    "data": dict, "schedule": dict, "backend": dict, "state": dict, "run": dict, "plugins": dict,
}  # fmt: skip
"""What `state.json` holds."""
log = logging.getLogger("hfx")


def folder_of(output: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return output / "checkpoints" / f"step-{step:08d}"


@dataclass
class Checkpoint:
    """A valid checkpoint on disk: its tensors and values. Implements `protocols.StateReader`."""

    path: Path
    step: int
    manifest: Manifest
    state: Values
    world_size: int = 1

    @property
    def values(self) -> Values:
        """The JSON values the backend saved."""
        found: Values = self.state["backend"]
        return found

    def names(self) -> list[str]:
        """Return the tensors' names."""
        return list(self.manifest.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the full shape of a tensor."""
        return self.manifest.tensors[name][0]

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor."""
        import torch

        found: torch.dtype = getattr(torch, self.manifest.tensors[name][1].removeprefix("torch."))
        return found

    def read(self, into: dict[str, Tensor]) -> None:
        """Fill tensors, plain or sharded, in place.

        Raises:
            StorageError: a tensor is missing, or of another shape or dtype.
        """
        from hfx import shards

        for name, tensor in into.items():
            saved = self.manifest.tensors.get(name)
            # DCP casts a differing dtype and leaves a missing row at its old value, both without a word.
            if saved is None or saved != (tuple(tensor.shape), str(tensor.dtype)):
                raise StorageError(
                    f"'{name}' is {saved or 'missing'} in '{self.path}' and {tuple(tensor.shape)} of {tensor.dtype} "
                    "in this run; resume with the model and the precision it was saved with"
                )
        shards.read(self.path, list(self.manifest.files), into, self.world_size)


def step_of(path: Path) -> int | None:
    """Return the step of a checkpoint's folder, or None for any other."""
    match = _STEP.fullmatch(path.name)
    return int(match[1]) if match else None


def open_checkpoint(path: Path, world_size: int) -> Checkpoint:
    """Return a checkpoint after checking every file against its manifest, and the manifest against itself.

    Raises:
        StorageError: one of them is missing, or is not what was written.
    """
    from hfx import shards

    step = step_of(path)
    if step is None:
        raise StorageError(f"'{path}' is no checkpoint: its name is not that of a step")
    manifest = Manifest.read(path)
    manifest.check(path)
    shards.check(path, list(manifest.files), manifest.tensors)
    return Checkpoint(path, step, manifest, _state(path, step), world_size)


def _state(path: Path, step: int) -> Values:
    try:
        found = json.loads(read_text(path / "state.json"))
        if not isinstance(found, dict):
            raise ValueError("it is no object")
        for name, kind in _KINDS.items():
            if not isinstance(found.get(name), kind):
                raise ValueError(f"'{name}' is missing or of another type")
        if found["step"] != step:
            raise ValueError(f"it is of step {found['step']}")
    except (OSError, ValueError, RecursionError) as error:
        raise StorageError(f"'{path / 'state.json'}' cannot be used: {error}; the checkpoint is damaged") from error
    return found


def sound(path: Path) -> bool:
    """Return whether a checkpoint has its manifest and all files in their sizes; their content is not read."""
    try:
        Manifest.read(path).check_sizes(path)
    except StorageError:
        return False
    return True


def steps_on_disk(output: Path) -> list[Path]:
    """Return the committed checkpoints of a run, newest first."""
    return [path for path in candidates(output) if not path.name.endswith(NEW) and (path / MANIFEST).is_file()]


def candidates(output: Path) -> list[Path]:
    """Return what may be a checkpoint of a run, newest first.

    That is every folder under its name, which had a manifest once, and new ones that were committed and not renamed.
    """
    named = [path for path in (output / "checkpoints").glob("step-*") if step_of(path) is not None and path.is_dir()]
    found = [path for path in named if not path.name.endswith(NEW) or (path / MANIFEST).is_file()]
    return sorted(found, key=lambda path: (step_of(path), not path.name.endswith(NEW)), reverse=True)


def newest(output: Path, world_size: int, at_most: int | None = None) -> Checkpoint | None:
    """Return the newest valid checkpoint of a run; a damaged one is named and the one before it used.

    Args:
        output: The run's folder.
        world_size: Ranks that will read it.
        at_most: The last step it may be of.

    Raises:
        StorageError: there are checkpoints, and all of them are damaged.
    """
    failed: StorageError | None = None
    for path in candidates(output):
        if at_most is not None and (step_of(path) or 0) > at_most:
            continue
        try:
            return open_checkpoint(path, world_size)
        except StorageError as error:
            log.warning("%s; using the one before it", error)
            failed = error
    if failed:
        raise StorageError(f"every checkpoint of '{output}' is damaged; begin anew with another 'output'") from failed
    return None


def way_on(output: Path) -> str:
    """Return how a run that fails can go on: the command, and the checkpoint it goes on from, which is checked."""
    command = f"'hfx train --resume {output}'"
    try:
        found = newest(output, 1)
    except StorageError:
        return "no checkpoint of this run is intact"
    if found is None:
        return f"{command} begins anew, since none was saved before"
    return f"{command} goes on from '{found.path.name}', which is intact"
