"""Next-token prediction on text, with or without a prompt that carries no loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hfx import Plugin, hookimpl

if TYPE_CHECKING:
    from hfx import Run, Task


class CausalLM(Plugin):
    """Predict the next token of a text; the tokens of a prompt are read and not learned."""

    text: str | None = None
    """The column to learn; none: `text`, `content`, or the only column that holds a string."""
    prompt: str | None = None
    """A column that comes before the text and carries no loss."""
    append_eos: bool = True
    """End every row with the tokenizer's end token, which is learned."""
    overflow: Literal["split", "truncate", "drop"] = "split"
    """A row longer than `seq_length`: cut into parts without overlap, cut off, or left out."""
    side: Literal["left", "right"] = "right"
    """The side that `truncate` cuts off: `right` keeps the beginning."""
    min_length: int = Field(default=1, ge=1)
    """Parts with fewer tokens are left out."""

    @hookimpl
    def hfx_task(self, run: Run) -> Task:
        from hfx_plugins.tasks.causal_lm_impl import build

        return build(run.tokenizer, run.config.seq_length, self.model_dump())
