"""The part of `hfx export` that builds the model: without the data, without an engine, and mostly without optimizer."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from hfx.api import REPORT_FILE
from hfx.backend import TorchBackend
from hfx.blame import ran_out
from hfx.checkpoint import Checkpoint
from hfx.claim import claimed
from hfx.cli.export import refuse_others
from hfx.errors import DataError, DeviceMemoryError, HfxError, IncompatibleError, StorageError
from hfx.implementations import implementations
from hfx.loop import TaskModule
from hfx.manager import Manager
from hfx.protocols import StateReader, Values, World
from hfx.run import Run
from hfx.state import restore_state

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from hfx.protocols import Row
    from hfx.resolve import Resolved
    from hfx.rows import RowSet


def export(resolved: Resolved, output: Path, found: Checkpoint, target: Path) -> Path:
    """Write the model of a checkpoint of the run in `output`, and return where it is.

    Raises:
        HfxError: whatever the parts that are built refuse; `target` then is as it was.
    """
    run = Run(resolved, output, World())
    inside = target.absolute().parent == output.absolute()
    try:
        _ask_the_policys_plugins(run)
        with claimed(output) if inside else nullcontext():
            _load(run, found)
            return _write(run, target)
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise DeviceMemoryError(_too_large(run)) from error
    except OSError as error:
        if isinstance(error, HfxError) or error.filename is None:
            raise
        raise StorageError(
            f"'{error.filename}': {error.strerror}; check the path, its rights and the free space"
        ) from error
    finally:
        run.close()


def _ask_the_policys_plugins(run: Run) -> None:
    """Refuse what a plugin that the policy activated refuses; what the others check is about training."""
    run.checking = True
    for problem in Manager([active for active in run.active if active.origin.kind == "policy"]).check(run=run):
        if problem.fatal:
            raise IncompatibleError(problem.message)
    run.checking = False


def _too_large(run: Run) -> str:
    device = run.device.type
    elsewhere = "take a machine with more" if device == "cpu" else "hide the device from it, as CUDA_VISIBLE_DEVICES="
    return f"the whole model does not fit into the memory of '{device}'; {elsewhere}"


# ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _load(run: Run, found: Checkpoint) -> None:
    """Build the model with the checkpoint's tensors, and what its export needs beside it."""
    if (rows := _remembered(run)) is not None:
        run._parts["rows/train"] = rows
    run._parts["total_steps"] = found.state["total_steps"]
    backend = run._parts["backend"] = TorchBackend(run)
    reader: StateReader = found
    if _needs_optimizer(run):
        _ = run.optimizer
    else:
        run._parts["module"] = backend.shard(TaskModule(run.model, run.task))
        backend.optimizer = cast("Any", SimpleNamespace(param_groups=[], state={}))
        reader = _Weights(found)
    try:
        os.stat(found.path)  # torch would tell its whole traceback of what is not there
        backend.load(reader)
        restore_state(run, found)
    except Exception as error:
        if found.path.is_dir():
            raise
        raise StorageError(
            f"the run went on and dropped '{found.path}' before it was read; ask again, or let it 'keep' more"
        ) from error


def _needs_optimizer(run: Run) -> bool:
    """Say whether a plugin that shapes the export has a hand in the optimizer, too, whose state it may want."""
    both = {"hfx_export", "hfx_optimizer"}
    return any(both <= implementations(type(active.plugin)).keys() for active in run.active)


class _Weights:
    """A checkpoint without the optimizer's state, which is twice the size of the rest."""

    def __init__(self, found: Checkpoint) -> None:
        self._found = found
        self.values: Values = {"optim": {}, "groups": [], "scaler": None}

    def names(self) -> list[str]:
        return [name for name in self._found.names() if not name.startswith("optim.")]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._found.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._found.dtype(name)

    def read(self, into: dict[str, Tensor]) -> None:
        self._found.read(into)


# ── the rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _remembered(run: Run) -> RowSet | None:
    """Return the rows that the run was trained on, as its report names them; None where it does not."""
    try:
        fingerprint = json.loads((run.output / REPORT_FILE).read_text())["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return cast("RowSet", _RememberedRows(str(fingerprint), lambda: run._split_rows("train")))


class _RememberedRows:
    """Training rows by their fingerprint, under which the cache keeps a tokenizer and a task's facts.

    They are read only where the cache no longer does, and then have to be the same.
    """

    def __init__(self, fingerprint: str, read: Callable[[], RowSet]) -> None:
        self.fingerprint = fingerprint
        self._read = read
        self._found: RowSet | None = None

    def _rows(self) -> RowSet:
        if self._found is None:
            lost = "the cache no longer has what this run learned from its training data"
            try:
                found = self._read()
            except HfxError as error:
                raise DataError(f"{lost}, and the data cannot be read: {error}") from error
            if found.fingerprint != self.fingerprint:
                raise DataError(f"{lost}, and the data has changed; put it back, or set HFX_CACHE to the run's cache")
            self._found = found
        return self._found

    def __len__(self) -> int:
        return len(self._rows())

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows(), name)


# ── the folder ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _write(run: Run, target: Path) -> Path:
    """Let the export write beside the target, and put what is whole in its place, folders beside it (`-ema`) too."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".export-", dir=target.parent))
    try:
        written = run.hooks.export(run=run, path=draft / target.name)
        made = sorted(draft.iterdir())
        for folder in made:
            refuse_others(target.with_name(folder.name), run.output)
        for folder in made:
            _replace(target.with_name(folder.name), folder, draft)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target if written == draft / target.name else written


def _replace(place: Path, folder: Path, draft: Path) -> None:
    if place.exists():
        place.replace(draft / f"{place.name}.before")
    folder.replace(place)
