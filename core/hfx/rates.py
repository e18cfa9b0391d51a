"""How fast a device multiplies matrices: measured here, or published by its maker."""

from __future__ import annotations

import time
from statistics import median

import torch

PUBLISHED: dict[str, float] = {
    "a100": 312e12, "h100": 989e12, "h200": 989e12, "b200": 2250e12, "l4": 121e12, "l40s": 362e12, "rtx4090": 165e12,
    "mi300x": 1307e12,
}  # fmt: skip
"""Operations a second in bf16 without sparsity, from the makers' data sheets."""
_SIZE = 1024
_SECONDS = 0.3


def measured(device: torch.device, dtype: torch.dtype) -> float:
    """Return operations a second of a product of square matrices of 1,024, the median of a third of a second's."""
    left, right = (torch.randn(_SIZE, _SIZE, device=device, dtype=dtype) for _ in range(2))
    taken: list[float] = []
    end = time.perf_counter() + _SECONDS
    torch.mm(left, right)
    while not taken or time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return 2 * _SIZE**3 / median(taken)
