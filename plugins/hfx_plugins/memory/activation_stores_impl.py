"""Where activations wait: in the host's memory, in a file without a name, or nowhere, while a run is planned."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from hfx.errors import StorageError

if TYPE_CHECKING:
    from hfx import Run

_ALIGNED = 4096


class Place(Protocol):
    """Takes tensors of shape `(elements,)`, and gives them back by a key."""

    def takes(self, tensor: Tensor) -> bool:
        """Return whether a tensor would be elsewhere there."""

    def put(self, flat: Tensor) -> Any:
        """Store a tensor and return its key."""

    def get(self, key: Any, dtype: torch.dtype, device: torch.device, count: int) -> Tensor:
        """Return the tensor."""

    def drop(self, key: Any) -> None:
        """Forget the tensor."""


class Host:
    """The host's memory, pinned, so that an accelerator computes on while it copies."""

    def __init__(self) -> None:
        self._kept: dict[int, Tensor] = {}
        self._next = 0

    def takes(self, tensor: Tensor) -> bool:
        """Return whether it is an accelerator's."""
        return tensor.device.type != "cpu"

    def put(self, flat: Tensor) -> int:
        """Begin to copy; the copy is ordered behind what the device computes before, and its memory's next use."""
        pinned = flat.device.type != "cpu"
        self._next += 1
        copy = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=pinned)
        self._kept[self._next] = copy.copy_(flat, non_blocking=pinned)
        return self._next

    def get(self, key: int, dtype: torch.dtype, device: torch.device, count: int) -> Tensor:
        """Return a copy on the device."""
        return self._kept[key].to(device, non_blocking=True, copy=True)

    def drop(self, key: int) -> None:
        """Free the copy."""
        del self._kept[key]


class Disk:
    """A file without a name beside the run's, which the system removes with the process, however that ends.

    It is written from the start again when nothing of it is needed any more: after every backward pass.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._file: Any = None
        self._end = 0
        self._needed = 0
        # On an accelerator the backward pass has threads of its own.
        self._lock = threading.Lock()

    def takes(self, _: Tensor) -> bool:
        """Return that any tensor would be."""
        return True

    def put(self, flat: Tensor) -> int:
        """Write it, and return where.

        Raises:
            StorageError: the disk is full, or refuses.
        """
        data = flat.cpu().view(torch.uint8).numpy().data
        with self._lock:
            if self._file is None:
                self._file = self._opened()
            at, self._needed = self._end, self._needed + 1
            self._end += -(-len(data) // _ALIGNED) * _ALIGNED
        try:
            _whole(lambda done: os.pwrite(self._file.fileno(), data[done:], at + done), len(data))
        except OSError as error:
            self.drop(at)
            raise StorageError(
                f"'activation_offload' cannot write {len(data) / 2**20:,.1f} MiB of activations to '{self._folder}': "
                f"{error.strerror}; free some space, or lower 'micro_batch_size'"
            ) from error
        return at

    def get(self, key: int, dtype: torch.dtype, device: torch.device, count: int) -> Tensor:
        """Read it."""
        flat = torch.empty(count, dtype=dtype)
        data = flat.view(torch.uint8).numpy().data
        _whole(lambda done: os.preadv(self._file.fileno(), [data[done:]], key + done), len(data))
        return flat.to(device)

    def drop(self, _: int) -> None:
        """Take note that it is needed no more."""
        with self._lock:
            self._needed -= 1
            if not self._needed:
                self._end = 0

    def _opened(self) -> Any:
        return self._run.enter(tempfile.TemporaryFile(buffering=0, dir=self._folder))

    @property
    def _folder(self) -> Path:
        """The run's folder; before there is one, that in which it will be."""
        output = self._run.output.absolute()
        return next(folder for folder in (output, *output.parents) if folder.is_dir())


def _whole(part: Callable[[int], int], size: int) -> None:
    """Call for what is left, after so many bytes: the system moves at most 2 GiB at once."""
    done = 0
    while done < size:
        moved = part(done)
        assert moved, "the file is as long as what was written"
        done += moved


class Nowhere:
    """Keeps nothing: what is planned has no content."""

    def takes(self, _: Tensor) -> bool:
        """Return that any tensor would be."""
        return True

    def put(self, flat: Tensor) -> None:
        """Let it go."""

    def get(self, key: None, dtype: torch.dtype, device: torch.device, count: int) -> Tensor:
        """Return one of the same size."""
        return torch.empty(count, dtype=dtype, device=device)

    def drop(self, key: None) -> None:
        """Do nothing."""
