"""The loss of a model outside of hfx's loop: hfx computes sums, and a plain script expects a mean."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from hfx.errors import IncompatibleError
from hfx.token_loss import IGNORED, causal_loss

if TYPE_CHECKING:
    from torch import Tensor


def divide(model: Any) -> None:
    """Let `forward(labels=...)` return hfx's loss as a mean over the labels, or over `num_items_in_batch`.

    There are no logits beside it: that they are never there as a whole is what a chunked loss is for.

    Raises:
        IncompatibleError: it does not predict the next token.
    """
    if "CausalLM" not in type(model).__name__ and "LMHead" not in type(model).__name__:
        raise IncompatibleError(
            f"in a script, a loss within the head is for models of the next token, and this is a "
            f"'{type(model).__name__}'; train it with `hfx.train`"
        )
    forward = model.forward

    @functools.wraps(forward)  # the Trainer reads the names of its arguments
    def divided(*args: Any, labels: Tensor | None = None, num_items_in_batch: Any = None, **inputs: Any) -> Any:
        if labels is None or args:
            return forward(*args, labels=labels, **inputs)
        from transformers.modeling_outputs import CausalLMOutput

        total = causal_loss(model, {key: value for key, value in inputs.items() if key not in _SAID}, labels)
        if num_items_in_batch is None:
            num_items_in_batch = (labels[:, 1:] != IGNORED).sum().clamp(min=1)
        return CausalLMOutput(loss=total / num_items_in_batch)

    model.forward = divided


_SAID = ("use_cache", "return_dict")
"""Arguments that hfx's loss decides by itself."""
