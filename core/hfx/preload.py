"""What every run imports, imported at once: the garbage collector would look at each new module's objects many times.

Torch and transformers make a million objects that stay. Without collections on the way their import is a sixth faster;
afterwards they are left out of all collections (`gc.freeze`), so that none holds up a step, or copies the pages that
worker processes share, by looking at them.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

from hfx.allocator import keep_no_buffers

NAMES = (
    "hfx.advice",  # needed when memory ended, and nothing can be imported any more
    "transformers.masking_utils",
    "transformers.modeling_utils",
    "transformers.models.auto.tokenization_auto",
)


@contextmanager
def preloaded(first: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Import torch and transformers, and leave what is there to no collection until the context is left.

    Args:
        first: Called between the two. What it refuses (a package that is there and broken) transformers might import.
    """
    keep_no_buffers()
    frozen_before, enabled = gc.get_freeze_count(), gc.isenabled()
    gc.disable()
    try:
        try:
            import_module("torch")
            first()
            for name in NAMES:
                import_module(name)
        finally:
            gc.freeze()
            if enabled:
                gc.enable()
        yield
    finally:
        if not frozen_before:
            gc.unfreeze()  # the caller's objects, too, were left out
