"""One example a sequence, padded to the longest of its batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from hfx import Plugin, hookimpl

if TYPE_CHECKING:
    from hfx import Batcher, Run


class Padding(Plugin):
    """One example a sequence, padded on the right to the longest of its batch."""

    pad_to_multiple_of: int = Field(default=1, ge=1)
    """Round the padded length up to a multiple of this; 8 or 64 suits tensor cores."""

    @hookimpl
    def hfx_batcher(self, run: Run) -> Batcher:
        from hfx_plugins.batching.padding_impl import PaddingBatcher

        return PaddingBatcher(dict(run.task.collated()), self.pad_to_multiple_of)
