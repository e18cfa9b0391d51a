"""How much a piece of torch computes, and how fast a device does: measured here, or published by its maker."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import flop_registry

if TYPE_CHECKING:
    from hfx.protocols import Precision

_aten = torch.ops.aten
_SAME = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _aten._scaled_dot_product_flash_attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _aten._scaled_dot_product_flash_attention_backward,
    _aten.addmm_: _aten.addmm,
    _aten.baddbmm_: _aten.baddbmm,
}
"""Operations that torch's table lacks, and those that compute the same."""
PUBLISHED: dict[str, float] = {
    "a100": 312e12, "h100": 989e12, "h200": 989e12, "b200": 2250e12, "l4": 121e12, "l40s": 362e12, "rtx4090": 165e12,
    "mi300x": 1307e12,
}  # fmt: skip
"""Operations a second in bf16 without sparsity, from the makers' data sheets."""
_SIZE = 1024
_SECONDS = 0.3


def operations(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Return the floating-point operations of a call under a dispatch mode, two for a product with its sum.

    Products of matrices, convolutions and attention count, as torch counts them; what is done element by element does
    not.
    """
    packet = func._overloadpacket
    counted = flop_registry.get(_SAME.get(packet, packet))
    return int(counted(*args, **kwargs, out_val=result)) if counted else 0


def computed_in(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products: what autocast multiplies in is not what weights are kept in."""
    probe = torch.ones(1, 1, device=device, dtype=precision.dtype)
    with precision.autocast():
        return torch.mm(probe, probe).dtype


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
