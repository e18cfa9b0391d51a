"""A run's model from one of its checkpoints: without the data, without an engine, and mostly without optimizer."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from hfx.api import REPORT_FILE
from hfx.backend import TorchBackend
from hfx.blame import ran_out
from hfx.checkpoint import Checkpoint
from hfx.errors import DataError, DeviceMemoryError, HfxError, StorageError
from hfx.implementations import implementations
from hfx.loop import TaskModule
from hfx.state import restore_state

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from hfx.protocols import Row, StateReader, Values
    from hfx.rows import RowSet
    from hfx.run import Run


def remember(run: Run, folder: Path, held_out: bool) -> None:
    """Let a run know its training rows by name, as the folder of the run that was trained on them says.

    Args:
        run: A run of which nothing is built yet.
        folder: The folder.
        held_out: Whether a share of the rows was held out for evaluations, whatever this run evaluates on.
    """
    if (rows := _remembered(run, folder, held_out)) is not None:
        run._parts["rows/train"] = rows


def load(run: Run, found: Checkpoint) -> None:
    """Build the model with a checkpoint's tensors, and what its export or evaluation needs beside it.

    Args:
        run: A run that remembers its training rows, and of which no more is built than, perhaps, its backend.
        found: The checkpoint.
    """
    run._parts["total_steps"] = found.state["total_steps"]
    backend = run._parts.setdefault("backend", TorchBackend(run))
    reader: StateReader = found
    with _without_remarks():
        if _needs_optimizer(run):
            _ = run.optimizer
        else:
            without_optimizer(run)
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


@contextmanager
def explained(run: Run) -> Iterator[None]:
    """Say what to do about memory or a disk that ends in a run that one process builds, and close the run."""
    try:
        yield
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


def _too_large(run: Run) -> str:
    device = run.device.type
    elsewhere = "take a machine with more" if device == "cpu" else "hide the device from it, as CUDA_VISIBLE_DEVICES="
    return f"the whole model does not fit into the memory of '{device}'; {elsewhere}"


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Keep back what is said of the weights that a model begins with: they are about to be replaced."""
    logger = logging.getLogger("hfx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def without_optimizer(run: Run) -> None:
    """Build model and module, and take none for the optimizer."""
    backend = run._parts["backend"]
    run._parts["module"] = backend.shard(TaskModule(run.model, run.task))
    run._parts["optimizer"] = backend.optimizer = cast("Any", SimpleNamespace(param_groups=[], state={}))


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


def _remembered(run: Run, folder: Path, held_out: bool) -> RowSet | None:
    """Return the rows that the run was trained on, as its report names them; None where it does not."""
    try:
        fingerprint = json.loads((folder / REPORT_FILE).read_text())["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None

    def read() -> RowSet:
        rows = run.cleaned("train")
        return rows.split(run.config.eval_share)[False] if held_out else rows

    return cast("RowSet", _RememberedRows(str(fingerprint), read))


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
