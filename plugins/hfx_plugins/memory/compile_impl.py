"""What is compiled, in place: a module keeps its class, its hooks and the names of its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch._dynamo
from torch import nn

from hfx.errors import ConfigError, IncompatibleError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfx import Run
    from hfx_plugins.memory.compile import Compile


VARIANTS = 64
"""How many variants of the layers' code are compiled at most."""


def install(model: PreTrainedModel, options: Compile, run: Run) -> None:
    """Let the model's layers, or its body, compile at their first call.

    The head is never compiled: which states it sees, and what it returns for them, changes with every batch.

    Raises:
        ConfigError: torch knows no such compiler.
        IncompatibleError: the model has no layers that come again and again, or no body beside its head.
    """
    known = torch._dynamo.list_backends(exclude_tags=())
    if options.backend not in known:
        raise ConfigError(
            f"torch has no compiler '{options.backend}' for 'compile.backend';"
            f"{nearest(options.backend, known) or ' it has ' + ', '.join(known)}"
        )
    mode = options.mode if options.mode != "default" else None
    found = list(repeated(model)) if options.regional else body(model)
    if not found:
        what = "layers that are alike" if options.regional else "body apart from its head"
        raise IncompatibleError(
            f"'{type(model).__name__}' has no {what}; set 'compile.regional' to {str(not options.regional).lower()}"
        )
    # All layers are one piece of code to torch, which gives that up after eight variants, those of earlier runs in this
    # process among them: kinds of layers, shapes, training and evaluation are multiplied.
    torch._dynamo.reset()
    run.enter(torch._dynamo.config.patch(recompile_limit=VARIANTS))
    for module in found:
        module.compile(backend=options.backend, mode=mode, dynamic=options.dynamic)


def repeated(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of the outermost lists in which a class comes more than once."""
    for child in model.children():
        if isinstance(child, nn.ModuleList) and max(Counter(map(type, child)).values(), default=0) > 1:
            yield from child
        else:
            yield from repeated(child)


def body(model: PreTrainedModel) -> list[nn.Module]:
    """Return the model without its head."""
    return [model.base_model] if model.base_model is not model else []
