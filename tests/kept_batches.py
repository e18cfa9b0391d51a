"""What each step of a run was computed from, for a loop of one's own over the same batches."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from hfx import Plugin, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

SEEN: list[dict[str, Tensor]] = []
"""The batches of the last run; a test empties it before its own."""


class Batches(Plugin):
    """Keeps them."""

    @hookimpl(wrapper=True)
    def hfx_batcher(self) -> Generator[None, Any, Any]:
        """Return the batcher, which keeps what it collates."""
        batcher = yield
        plain = batcher.collate

        def collate(sequences: Any) -> dict[str, Tensor]:
            batch: dict[str, Tensor] = plain(sequences)
            SEEN.append({name: tensor.clone() for name, tensor in batch.items()})
            return batch

        batcher.collate = collate
        return batcher
