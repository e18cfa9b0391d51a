"""A plugin whose module imports torch."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from hfx import Plugin, Problem, hookimpl


class Heavy(Plugin):
    """Imports torch to be listed."""

    @hookimpl
    def hfx_check(self) -> Iterable[Problem]:
        """Report nothing."""
        return [] if torch.__version__ else [Problem("torch has no version; install it again")]
