"""What a run's device can do, asked only once torch is there to say it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from hfx import Run


def known_device(run: Run) -> torch.device | None:
    """Return the run's device; None in the first of the two checks, which comes before torch is imported."""
    return run.device if "torch" in sys.modules else None


def capability(device: torch.device) -> tuple[int, int]:
    """Return the compute capability of a GPU; (0, 0) of any other device."""
    import torch

    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
