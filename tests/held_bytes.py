"""How many bytes of tensors are held at a moment, seen by their storages: what a technique saves between two passes."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class Held(TorchDispatchMode):
    """Remembers every storage that an operation returns, for as long as it is there."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_iter(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self._alive:
                    self._alive[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self._alive.pop, storage._cdata)
        return result

    def bytes(self) -> int:
        """Return the bytes of what is there; what was there before the mode began counts once it is used."""
        return sum(self._alive.values())


class Highest(Held):
    """The most bytes that were held at once, stretch by stretch; it sees a storage that is emptied and kept, too."""

    def __init__(self) -> None:
        super().__init__()
        self._storages: dict[int, weakref.ref[Any]] = {}
        self.stretch = "build"
        self.most: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_iter(result):
            leaf = getattr(leaf, "_local_tensor", leaf)  # a DTensor's own storage says the size of the whole
            if isinstance(leaf, torch.Tensor) and leaf.device.type != "meta":
                storage = leaf.untyped_storage()
                if storage._cdata not in self._storages:
                    self._storages[storage._cdata] = weakref.ref(storage)
                    weakref.finalize(storage, self._storages.pop, storage._cdata)
        self.most[self.stretch] = max(self.most.get(self.stretch, 0), self.bytes())
        return result

    def bytes(self) -> int:
        """Return the bytes of what is there now."""
        alive = (of() for of in list(self._storages.values()))
        return sum(storage.nbytes() for storage in alive if storage is not None)
