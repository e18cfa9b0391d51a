"""Which code suits a model, a device and a precision, and setting it."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from hfx.errors import IncompatibleError
from hfx.rates import computed_in
from hfx_plugins.models.capacity_impl import first_line, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfx import Run
    from hfx_plugins.models.attention import Attention

NAMES = {"sdpa": "sdpa", "eager": "eager", "flash": "flash_attention_2", "flex": "flex_attention"}
"""What transformers calls them."""
HALF = (torch.float16, torch.bfloat16)

logger = logging.getLogger("hfx")


def choose(model: PreTrainedModel, options: Attention, run: Run) -> None:
    """Set the model's attention, and say which it is and why.

    Raises:
        IncompatibleError: the architecture, or the precision, cannot have what was asked for.
    """
    kernel, why = (options.kernel, "asked for") if options.kernel != "auto" else suited(model, run)
    dtype = computed_in(run.precision, run.device)
    if kernel == "flash" and dtype not in HALF:
        raise IncompatibleError(
            f"'flash' attention computes in half precision, and the run in {_plain(dtype)}; "
            "add '--plugin bf16', or set 'attention.kernel' to 'auto'"
        )
    try:
        with quiet():
            model.set_attn_implementation(NAMES[kernel])
    except (ValueError, ImportError) as error:
        raise IncompatibleError(_refusal(model, kernel, first_line(error))) from error
    if (found := model.config._attn_implementation) != NAMES[kernel]:
        raise IncompatibleError(_refusal(model, kernel, f"it stays '{found}'"))
    if run.world.is_main and not run.planning:
        logger.warning("attention: %s (%s)", kernel, why)


def suited(model: PreTrainedModel, run: Run) -> tuple[str, str]:
    """Return the fastest code that the model can have here, and why it is that."""
    flash = getattr(model, "_supports_flash_attn", False) and find_spec("flash_attn") is not None
    dtype = computed_in(run.precision, run.device)
    if flash and run.device.type == "cuda" and dtype in HALF:
        return "flash", f"{run.device} computes in {_plain(dtype)}, and flash-attn is installed"
    if model._supports_sdpa:
        return "sdpa", f"torch's own, on {run.device}"
    return "eager", f"'{type(model).__name__}' knows no other"


def _refusal(model: PreTrainedModel, kernel: str, cause: str) -> str:
    return f"'{type(model).__name__}' cannot have '{kernel}' attention: {cause}; set 'attention.kernel' to 'auto'"


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
