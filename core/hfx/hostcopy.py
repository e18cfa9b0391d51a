"""A copy of tensors in the host's memory, made again and again in the same place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from hfx.shards import Part


class HostCopy:
    """One piece of the host's memory, as large as the parts that are copied into it.

    Beside a GPU it is locked, so that the GPU copies at its full speed.
    """

    def __init__(self) -> None:
        self._layout: list[object] = []
        self._parts: list[Part] = []
        self._locked = 0

    def of(self, parts: list[Part]) -> list[Part]:
        """Return the parts with tensors that are copies; they change when the next copy is made."""
        layout: list[object] = [(part.name, part.tensor.shape, part.tensor.dtype, part.offsets) for part in parts]
        if layout != self._layout:
            self._lay_out(parts)
            self._layout = layout
        with torch.no_grad():
            for own, part in zip(self._parts, parts, strict=True):
                own.tensor.copy_(part.tensor, non_blocking=True)
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        return self._parts

    def _lay_out(self, parts: list[Part]) -> None:
        """Give each part its place: they come by falling alignment, so each is aligned."""
        self.free()
        memory = torch.empty(sum(part.tensor.nbytes for part in parts), dtype=torch.uint8)
        if torch.cuda.is_available() and memory.nbytes:
            # Not `pin_memory`, which takes memory in powers of two.
            torch.cuda.check_error(_cudart().cudaHostRegister(memory.data_ptr(), memory.nbytes, 0))
            self._locked = memory.data_ptr()
        at = 0
        for part in parts:
            tensor = part.tensor
            piece = memory[at : at + tensor.nbytes]
            self._parts.append(replace(part, tensor=piece.view(tensor.dtype).view(tensor.shape)))
            at += tensor.nbytes

    def free(self) -> None:
        """Let the memory go."""
        if self._locked:
            _cudart().cudaHostUnregister(self._locked)
        self._layout, self._parts, self._locked = [], [], 0


def _cudart() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
