"""Memory that ends in the middle of a step: the step is tried again with micro-batches of half the size.

Neither the global batch nor its order depends on them. One process tries again where it is. Of several, those that
still have memory wait in a collective: the one that failed says what to go on with, and its launcher starts them again.
"""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from hfx.allocator import give_back_freed_memory
from hfx.blame import ran_out

if TYPE_CHECKING:
    from torch import Tensor

    from hfx.order import GlobalBatch
    from hfx.run import Run


def with_less(run: Run, batch: GlobalBatch, gradients: Callable[[], Tensor]) -> Tensor:
    """Return what `gradients` returns, called again with smaller micro-batches for as long as memory runs out.

    Raises:
        MemoryError, RuntimeError: it ran out where this cannot be done; `run.smaller` might have fitted.
    """
    began = run.micro_batch_size
    while True:
        try:
            total = gradients()
        except (MemoryError, RuntimeError) as error:
            if run.planning or not ran_out(error):
                raise
            run.smaller = _half(run, batch)
            if run.smaller is None or not _dropped(run):
                raise
        else:
            if run.micro_batch_size != began:
                _write_down(run, began, "memory ran out")
            return total
        # The error is gone by now, and with it what its frames held.
        gc.collect()
        _empty_caches(run)
        run.micro_batch_size, run.smaller = run.smaller, None
        print(
            f"hfx: warning: memory ran out in step {run.step + 1}; it is tried again with 'micro_batch_size' "
            f"{run.micro_batch_size}, which changes the result in its last bits, and draws dropout anew",
            file=sys.stderr,
            flush=True,
        )


def _half(run: Run, batch: GlobalBatch) -> int | None:
    """Return half of what a micro-batch holds; None where that is one sequence."""
    held = min(run.micro_batch_size, math.ceil(len(batch.sequences) / run.world.size))
    return held // 2 or None


def _dropped(run: Run) -> bool:
    """Let the backend drop the step's gradients, and return whether the step can begin anew."""
    drop: Callable[[], bool] | None = getattr(run.backend, "drop_gradients", None)
    return run.world.size == 1 and drop is not None and drop()


def _empty_caches(run: Run) -> None:
    import torch

    if run.device.type == "cpu":
        give_back_freed_memory()
    else:
        torch.accelerator.empty_cache()


def follow(run: Run) -> None:
    """Take the smaller micro-batches with which the launcher began again, if it did."""
    smaller, run.smaller = run.smaller, None
    if smaller is not None and smaller < run.micro_batch_size:
        before, run.micro_batch_size = run.micro_batch_size, smaller
        _write_down(run, before, "memory ran out on some rank")


def _write_down(run: Run, before: int, reason: str) -> None:
    now = run.micro_batch_size
    run.log({"step": run.step + 1, "event": "micro_batch_size", "reason": reason, "from": before, "to": now})
