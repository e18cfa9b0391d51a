"""What the precision plugins return: a dtype for the weights and one for the products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn


@dataclass
class PlainPrecision:
    """Weights in one dtype, matrix products in the same or, under autocast, in another; no loss scaling."""

    device: torch.device
    why: str
    dtype: torch.dtype = torch.float32
    compute: torch.dtype | None = None
    """Autocast's dtype; none: no autocast."""
    scaler: torch.amp.GradScaler | None = None

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of every forward pass."""
        if self.compute is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.compute)

    def convert(self, model: nn.Module) -> nn.Module:
        """Return the model as it is."""
        return model


def native_bf16(device: torch.device) -> tuple[bool, str]:
    """Say whether the device has instructions for bf16, and by what that was decided; emulation does not count."""
    if device.type == "cuda":
        # Asked of this device: `is_bf16_supported` looks at the current one, which need not be the run's yet.
        native = torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8
        return native, torch.cuda.get_device_name(device)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        found = [name for name in ("amx_bf16", "avx512_bf16", "sve_bf16") if capabilities.get(name)]
        return bool(found), f"a CPU with {found[0]}" if found else "a CPU without bf16 instructions"
    return False, f"device '{device.type}'"


@contextmanager
def tf32_products() -> Iterator[None]:
    """Let fp32 matrices be multiplied in TF32 on CUDA, and put torch's settings back."""
    backends: Any = torch.backends
    settings = (backends.cuda.matmul, backends.mkldnn.matmul)
    before = [setting.fp32_precision for setting in settings]
    try:
        summed_up = torch.get_float32_matmul_precision()
    except RuntimeError:  # somebody used the new names alone
        summed_up = "highest"
    # It sets `torch.backends.cuda.matmul.fp32_precision`. Where that is set alone, torch.compile fails as it tunes
    # products, since it asks for what is set here.
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(summed_up)
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value
