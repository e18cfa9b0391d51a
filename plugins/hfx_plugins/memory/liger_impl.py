"""Handing a model to liger-kernel, without its losses, and taking back what it changes for the whole process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

from liger_kernel.transformers import _apply_liger_kernel_to_instance
from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

from hfx.errors import IncompatibleError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfx import Run
    from hfx_plugins.memory.liger import Liger

LOSSES = ("cross_entropy", "fused_linear_cross_entropy")
"""Left out: they would take the place of the model's forward pass, and of the loss of labelled positions."""


def patch(model: PreTrainedModel, options: Liger, run: Run) -> None:
    """Let the model's layers call the kernels until the run ends.

    Raises:
        IncompatibleError: liger-kernel has none for the architecture.
    """
    kind = model.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise IncompatibleError(
            f"liger-kernel has no kernels for a '{kind}' model;{nearest(kind, MODEL_TYPE_TO_APPLY_LIGER_FN)} "
            "add '--plugin no:liger'"
        )
    run.enter(_restored(sys.modules[type(model).__module__]))
    _apply_liger_kernel_to_instance(model, rope=options.rope, **dict.fromkeys(LOSSES, False))


@contextmanager
def _restored(module: ModuleType) -> Iterator[None]:
    """Give a module of transformers its own functions and classes back in the end."""
    own = dict(vars(module))
    try:
        yield
    finally:
        vars(module).update(own)
