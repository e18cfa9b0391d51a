"""Whether a model keeps packed examples apart: changed tokens of one must not be felt in the next.

It is tried and not looked up in a list: what isolates depends on the architecture, on the attention's implementation,
on how the task calls the model and on the number of sequences in a batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hfx.errors import IncompatibleError

if TYPE_CHECKING:
    from torch import Tensor

    from hfx import Run
    from hfx.protocols import Values

FELT = 0.1
"""Share of the effect of an example's own first token; rounding that depends on other rows stays far below it."""


def check_isolation(run: Run) -> None:
    """Pack two examples of the first batches, change the first one, and compare the states of the second.

    Raises:
        IncompatibleError: they differ, or the model cannot be told positions.
    """
    name = run.model.config.model_type
    if not _takes_positions(run.model):
        raise IncompatibleError(
            f"a '{name}' model takes no 'position_ids', by which packed documents are kept apart;"
            " add '--plugin no:packing'"
        )
    first, second = _two_examples(run)
    with _looking(run):
        plain = _states(run, first, second)
        neighbour = _states(run, _changed(run, first, len(first["input_ids"])), second)
        if torch.equal(plain, neighbour):
            return
        own = _states(run, first, _changed(run, second, 1))
    felt = float((plain - neighbour).abs().max())
    usual = max([float(change) for change in (plain - own).abs().amax((0, 2))[1:]], default=0.0)
    if felt > FELT * usual:
        raise IncompatibleError(_refusal(name, str(getattr(run.model.config, "_attn_implementation", None))))


def _refusal(name: str, attention: str) -> str:
    other = "" if attention in ("sdpa", "eager", "None") else ", or '--pretrained.attn_implementation sdpa'"
    how = "" if attention == "None" else f" with '{attention}' attention"
    return f"packed documents see each other in a '{name}' model{how}; add '--plugin no:packing'{other}"


def _takes_positions(model: Any) -> bool:
    parameters = inspect.signature(model.forward).parameters.values()
    return any(p.name == "position_ids" or p.kind is p.VAR_KEYWORD for p in parameters)


def _two_examples(run: Run) -> tuple[Values, Values]:
    """Return two examples, each cut to half a sequence at most: the check alters no row, it only looks."""
    rows = (
        (sequence.table, int(row))
        for batch in run.order.batches(run.position)
        for sequence in batch.sequences
        for row in sequence.rows
    )
    half = max(1, run.config.seq_length // 2)
    rng = np.random.default_rng(run.config.seed)
    drawn = [run.task.draw(table.values(row), rng) for table, row in islice(rows, 2)]
    first, second = ({name: values[:half] for name, values in one.items()} for one in drawn)
    return first, second


def _changed(run: Run, example: Values, count: int) -> Values:
    ids = np.array(example["input_ids"])
    ids[:count] = (ids[:count] + 1) % len(run.tokenizer)
    return {**example, "input_ids": ids}


@contextmanager
def _looking(run: Run) -> Iterator[None]:
    """Leave the random state, the mode of the modules and the gradients as they are."""
    devices = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        run.module.eval()
        yield
        run.module.train()


def _states(run: Run, first: Values, second: Values) -> Tensor:
    """Return the states of the second example behind the first, as training computes them, `(batch, seq, hidden)`."""
    seen: list[Tensor] = []

    def look(_module: Any, _inputs: Any, output: Any) -> None:
        seen.append(output if isinstance(output, torch.Tensor) else output[0])

    each = -(-run.config.batch_size // run.world.size)
    sequences = [[first, second]] * min(each, run.config.micro_batch_size)
    batch = {name: tensor.to(run.device) for name, tensor in run.batcher.collate(sequences).items()}
    # The base model, below the head, is called first; where the head calls only a part of it, the model has to do.
    handles = [module.register_forward_hook(look) for module in (run.model.base_model, run.model)]
    try:
        with run.precision.autocast():
            run.module(batch)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise IncompatibleError(
            f"whether a '{run.model.config.model_type}' model keeps packed documents apart cannot be seen, because the"
            " task does not call it as a whole; add '--plugin no:packing'"
        )
    return seen[0][:, len(first["input_ids"]) :].float()
