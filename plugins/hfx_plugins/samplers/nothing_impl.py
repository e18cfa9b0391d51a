"""The order of a stream's block of which nothing is drawn."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hfx.protocols import Indices

log = logging.getLogger("hfx")


@dataclass
class Nothing:
    """An epoch without a draw: the run goes on with the next block."""

    content: str = ""

    def fingerprint(self) -> str:
        """Return what decides the order beside data and options."""
        return self.content

    def size(self, epoch: int) -> int:
        """Return 0."""
        return 0

    def rows(self, epoch: int, start: int, stop: int) -> Indices:
        """Return no indices."""
        return np.zeros(0, dtype=np.int64)


def nothing(name: str, why: str, content: str = "") -> Nothing:
    """Return an order without draws, and say why: indexed data would be refused, a stream may go on better."""
    log.warning("'%s' draws nothing from a block of the stream: %s", name, why)
    return Nothing(content)
