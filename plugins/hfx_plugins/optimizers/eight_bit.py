"""What `adamw_8bit` and `lion_8bit` say before bitsandbytes is imported."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec

from hfx import Problem

OLDEST = (0, 50)
"""The first version of bitsandbytes whose optimizers work on CPUs."""


def problems(name: str) -> Iterator[Problem]:
    """Report that bitsandbytes is missing, or too old."""
    if find_spec("bitsandbytes") is None:
        yield Problem(f"'{name}' needs the package 'bitsandbytes'; run: pip install 'hfx[bitsandbytes]'")
        return
    found = version("bitsandbytes")
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
        yield Problem(
            f"'{name}' needs bitsandbytes 0.50 or newer, and {found} is installed; "
            "run: pip install --upgrade 'hfx[bitsandbytes]'"
        )
