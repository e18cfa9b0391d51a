"""Saving a checkpoint so that none is lost: room is made first, each rank writes its file, the manifest commits all.

`save_content` reads the tensors and nothing else of a run, and talks through `Ranks` alone: with a copy of the tensors
and a process group of its own it runs in a thread (see `saver.py`).
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hfx.checkpoint import NEW, candidates, sound, step_of, way_on
from hfx.choice import chosen_in
from hfx.commit import MANIFEST, FileSum, Manifest, sync_folders
from hfx.errors import CollectiveError, StorageError

if TYPE_CHECKING:
    from torch import Tensor

    from hfx.protocols import Ranks, Values, World
    from hfx.shards import Content

T = TypeVar("T")
OLD = ".old"
"""Behind the name of a checkpoint that is being deleted."""
_AT_LEAST = 2
"""Valid checkpoints that are never deleted, however little room there is."""
log = logging.getLogger("hfx")


def save(path: Path, tensors: dict[str, Tensor], values: Values, world: World, ranks: Ranks) -> None:
    """Write a checkpoint; every rank calls it, and it exists once this returns.

    Args:
        path: Its folder. A checkpoint that is there already stays until the new one is committed.
        tensors: By name, plain or sharded; none is changed.
        values: The rest, as JSON.
        world: This process's place.
        ranks: How the ranks agree.

    Raises:
        StorageError: the disk is full or refuses; names the last valid checkpoint. Nothing half-written stays.
        CollectiveError: another rank could not write.
    """
    from hfx.shards import content_of

    save_content(path, content_of(tensors, world), json.dumps(values).encode(), world, ranks)


def save_content(
    path: Path, content: Content, state: bytes, world: World, ranks: Ranks, chosen: int | None = None
) -> None:
    """Do the same with what was shared out over the ranks, and values that are JSON already.

    The checkpoint of the `chosen` step, and what those that stay had chosen, stay where others go for want of room.
    """
    from hfx import shards

    new = path.with_name(path.name + NEW)
    room = content.needed + len(state)
    try:
        _together(world, ranks, lambda: _prepare(new, room, chosen) if world.is_main else None)
        written = shards.write(new, content.parts, world.rank)
        own = _together(world, ranks, lambda: _or_raise(written))
        manifest = Manifest(_gathered(own, content, world, ranks), content.tensors)
        _together(world, ranks, lambda: _commit(path, state, manifest) if world.is_main else None)
    except (OSError, CollectiveError) as error:
        if world.is_main and not (new / MANIFEST).is_file():
            shutil.rmtree(new, ignore_errors=True)
        if isinstance(error, OSError):
            raise _refused(path, error) from error
        raise


def _refused(path: Path, error: OSError) -> StorageError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    todo = "free space" if full else "look at the disk"
    said = error.strerror or str(error)
    return StorageError(f"cannot write the checkpoint '{path}': {said}; {todo}, then {way_on(path.parent.parent)}")


# ── what ranks tell each other ───────────────────────────────────────────────────────────────────────────────────────


def _together(world: World, ranks: Ranks, act: Callable[[], T]) -> T:
    """Do something on this rank, and fail on all ranks where it fails on one: else the others would wait for it."""
    import torch

    if world.size == 1:
        return act()
    failed: OSError | None = None
    try:
        result = act()
    except OSError as error:
        failed = error
    failures = torch.zeros(world.size, dtype=torch.float64)
    failures[world.rank] = failed is not None
    others = ranks.all_reduce(failures).nonzero().flatten().tolist()
    if failed is not None:
        raise failed
    if others:
        raise CollectiveError(f"rank {others[0]} could not save the checkpoint; see what that one says, then resume")
    return result


def _or_raise(written: FileSum | OSError | None) -> FileSum | None:
    if isinstance(written, OSError):
        raise written
    return written


def _gathered(own: FileSum | None, content: Content, world: World, ranks: Ranks) -> dict[str, FileSum]:
    """Return the sums of all ranks' files: each puts its own into its row, and the rows are added.

    Raises:
        StorageError: the files together are not as large as all tensors.
    """
    import torch

    from hfx.shards import file_of

    if world.size == 1:
        return {file_of(0): own} if own is not None else {}
    rows = torch.zeros(world.size, 25, dtype=torch.float64)
    rows[world.rank, 24] = sum(part.tensor.nbytes for part in content.parts)
    if own is not None:
        row = own.size.to_bytes(8, "little") + bytes.fromhex(own.xxh3_128)
        rows[world.rank, :24] = torch.tensor(list(row), dtype=torch.float64)
    rows = ranks.all_reduce(rows)
    if (written := int(rows[:, 24].sum())) != content.size:
        raise StorageError(
            f"the ranks wrote {written:,} bytes of tensors and hold {content.size:,}: the backend's 'state' has other "
            "tensors on one rank than on another"
        )
    told = [bytes(map(int, row)) for row in rows[:, :24].tolist()]
    sums = [FileSum(int.from_bytes(row[:8], "little"), row[8:].hex()) for row in told]
    return {file_of(rank): one for rank, one in enumerate(sums) if one.size}


# ── on the main rank ─────────────────────────────────────────────────────────────────────────────────────────────────


def _prepare(new: Path, room: int, chosen: int | None) -> None:
    """Make the folder to write into, on a disk with enough room.

    Raises:
        OSError: there is not enough, even with two checkpoints left; nothing was written.
    """
    folder = new.parent
    if not folder.is_dir():
        folder.mkdir(parents=True)
        sync_folders([folder.parent])
    settle(folder)
    if _free(folder) < room:
        rotate(folder.parent, _AT_LEAST, step_of(new), in_need=True, chosen=chosen)
    if (free := _free(folder)) < room:
        raise OSError(errno.ENOSPC, f"it needs {room:,} bytes, and {free:,} are free")
    new.mkdir()


def _free(folder: Path) -> float:
    usage = shutil.disk_usage(folder)
    return usage.free if usage.total else float("inf")  # some network file systems do not say


def _commit(path: Path, state: bytes, manifest: Manifest) -> None:
    new = path.with_name(path.name + NEW)
    with (new / "state.json").open("xb") as file:
        file.write(state)
        file.flush()
        os.fsync(file.fileno())
    Manifest({**manifest.files, "state.json": FileSum.of(state)}, manifest.tensors).write(new)
    old = path.with_name(path.name + OLD)
    if path.exists():
        path.rename(old)
    new.rename(path)
    sync_folders([path.parent])
    _delete(old)


def settle(folder: Path) -> None:
    """Finish what a killed process left: rename what it committed, delete what it did not or was deleting."""
    for new in folder.glob(f"step-*{NEW}"):
        path = new.with_suffix("")
        if sound(new) and not sound(path):
            remove(path)
            new.rename(path)
            sync_folders([folder])
        else:
            _delete(new)
    for old in folder.glob(f"step-*{OLD}"):
        _delete(old)


def rotate(output: Path, keep: int, step: int | None = None, in_need: bool = False, chosen: int | None = None) -> None:
    """Delete all but the newest valid checkpoints and the chosen one.

    A damaged one is not counted, and goes once it is older than they.

    What cannot be deleted is named in a warning: it takes space and endangers nothing.

    Args:
        output: The run's folder.
        keep: How many stay.
        step: Where the run is. Checkpoints ahead of it are not counted: the run did not go on from them.
        in_need: Whether those that are not counted go, too.
        chosen: The step of one that stays, whatever its age, as do those that checkpoints which stay had chosen: a run
            that goes back to them exports these.
    """
    kept, named = 0, {chosen}
    try:
        for path in candidates(output):
            counted = kept < keep and (step is None or (step_of(path) or 0) <= step) and sound(path)
            kept += counted
            stays = counted or (step_of(path) in named and sound(path))
            if counted:
                named.add(_chosen_by(path))
            if not stays and (in_need or kept >= keep):
                remove(path)
        settle(output / "checkpoints")
    except OSError as error:
        log.warning("cannot tidy '%s': %s", output / "checkpoints", error)


def _chosen_by(path: Path) -> int | None:
    """Return the step that a checkpoint names as the chosen one; None where it names none."""
    try:
        return chosen_in(json.loads((path / "state.json").read_bytes())["state"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("'%s' does not say what it had chosen: %s", path / "state.json", error)
        return None


def remove(path: Path) -> None:
    """Delete a checkpoint, which leaves its name first, so that half of one is never taken for one."""
    old = path.with_name(path.name + OLD)
    _delete(old)
    try:
        if path.exists():
            path.rename(old)
    except OSError as error:
        log.warning("cannot delete '%s': %s; it takes space", path, error.strerror)
        return
    _delete(old)


def _delete(folder: Path) -> None:
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        log.warning("cannot delete '%s': %s; it takes space", folder, error.strerror)
