"""What autograd saves is handed to a store by storage: views of one are stored once, and read once while in use."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.weak import WeakIdKeyDictionary

from hfx_plugins.memory.activation_stores_impl import Disk, Host, Nowhere, Place

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfx import Run
    from hfx_plugins.memory.activation_offload import ActivationOffload


def install(model: PreTrainedModel, options: ActivationOffload, run: Run) -> None:
    """Let the model's forward passes hand over what they save, while gradients are on."""
    to = options.to or ("disk" if run.device.type == "cpu" else "cpu")
    place: Place = Nowhere() if run.planning else Host() if to == "cpu" else Disk(run)
    offload = Offload(place, options.min_size)
    model.register_forward_pre_hook(offload.begin)
    model.register_forward_hook(offload.end, always_call=True)


class Offload:
    """The hooks of one model: around its forward pass, and in it around every tensor that is saved."""

    def __init__(self, place: Place, min_size: int) -> None:
        self._place = place
        self._min_size = min_size
        self._open: list[saved_tensors_hooks | None] = []
        self._staying: Any = WeakIdKeyDictionary()
        """Storages of parameters and buffers."""
        self._moved: Any = WeakIdKeyDictionary()
        """What is stored of each storage that is still there, by dtype and version."""

    def begin(self, model: nn.Module, _: Any) -> None:
        """Begin to take what is saved."""
        if not torch.is_grad_enabled():
            self._open.append(None)
            return
        self._staying = WeakIdKeyDictionary()
        for tensor in (*model.parameters(), *model.buffers()):
            self._staying[tensor.untyped_storage()] = True
        hooks = saved_tensors_hooks(self._pack, _unpack)
        hooks.__enter__()
        self._open.append(hooks)

    def end(self, *_: Any) -> None:
        """End it, after a forward pass that failed, too."""
        if self._open and (hooks := self._open.pop()):
            hooks.__exit__()

    def _pack(self, tensor: Tensor) -> Saved | Tensor:
        # What is returned must not be the tensor itself: one that is its own node's output would never be freed.
        if not self._movable(tensor):
            return tensor.detach()
        return Saved(self._stored(tensor), tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))

    def _movable(self, tensor: Tensor) -> bool:
        if not tensor.is_floating_point() or tensor.layout is not torch.strided or tensor.is_neg():
            return False
        # An engine that gathers a layer's parameters makes their storages on the way.
        owner = tensor if tensor._base is None else tensor._base
        if isinstance(owner, nn.Parameter) or not self._place.takes(tensor):
            return False
        storage = tensor.untyped_storage()
        return storage.nbytes() >= max(1, self._min_size) and storage not in self._staying

    def _stored(self, tensor: Tensor) -> Stored:
        storage = tensor.untyped_storage()
        versions = self._moved.setdefault(storage, weakref.WeakValueDictionary())
        key = (tensor.dtype, tensor._version)
        stored: Stored | None = versions.get(key)
        if stored is None:
            count = storage.nbytes() // tensor.element_size()
            versions[key] = stored = Stored(self._place, tensor.detach().as_strided((count,), (1,), 0))
        return stored


class Saved:
    """What the graph keeps in place of a tensor: which part of what is stored it is."""

    __slots__ = ("offset", "shape", "stored", "stride")

    def __init__(self, stored: Stored, shape: tuple[int, ...], stride: tuple[int, ...], offset: int) -> None:
        self.stored = stored
        self.shape = shape
        self.stride = stride
        self.offset = offset


class Stored:
    """A storage that is elsewhere for as long as something in the graph means it."""

    def __init__(self, place: Place, flat: Tensor) -> None:
        self._place = place
        self._key = place.put(flat)
        self._like = flat.dtype, flat.device, flat.numel()
        self._loaded: weakref.ref[Any] | None = None
        weakref.finalize(self, place.drop, self._key).atexit = False

    def part(self, shape: tuple[int, ...], stride: tuple[int, ...], offset: int) -> Tensor:
        """Return a part of it as it was; while another part is in use, it shares that one's storage."""
        storage = self._loaded() if self._loaded else None
        dtype, device, count = self._like
        if storage is not None:
            return torch.empty(0, dtype=dtype, device=device).set_(storage, offset, shape, stride)
        flat = self._place.get(self._key, dtype, device, count)
        self._loaded = weakref.ref(flat.untyped_storage())
        return flat.as_strided(shape, stride, offset)


def _unpack(saved: Saved | Tensor) -> Tensor:
    if isinstance(saved, Tensor):
        return saved
    return saved.stored.part(saved.shape, saved.stride, saved.offset)
