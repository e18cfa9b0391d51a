"""Next-token prediction on text, with or without a prompt that carries no loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hfx import Plugin, Problem, hookimpl

if TYPE_CHECKING:
    from hfx import PlainScript, Run, Task


class CausalLM(Plugin):
    """Predict the next token of a text; the tokens of a prompt are read and not learned."""

    text: str | None = None
    """The column to learn; none: `text`, `content`, or the only column that holds a string."""
    prompt: str | None = None
    """A column that comes before the text and carries no loss."""
    append_eos: bool = True
    """End every row with the tokenizer's end token, which is learned."""
    overflow: Literal["split", "rolling", "truncate", "drop"] = "split"
    """A row longer than `seq_length`: cut into parts without overlap, cut off, or left out; or `rolling`, as perplexity
    is measured: every token of a text is predicted once, the first behind the tokenizer's first or end token, that of
    a later part behind the token before it, and the last part reaches back as far as it has room."""
    side: Literal["left", "right"] = "right"
    """The side that `truncate` cuts off: `right` keeps the beginning."""
    min_length: int = Field(default=1, ge=1)
    """Parts with fewer tokens are left out."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Refuse rolling parts of rows with a prompt, which would not be read with each of them."""
        if self.overflow == "rolling" and self.prompt:
            yield Problem(
                "'causal_lm.overflow' is 'rolling', which predicts every token of a row, and 'causal_lm.prompt' says "
                "that some carry no loss; drop '--causal-lm.prompt', or take '--causal-lm.overflow split'"
            )

    @hookimpl
    def hfx_task(self, run: Run) -> Task:
        from hfx_plugins.tasks.causal_lm_impl import build

        return build(run.tokenizer, run.config.seq_length, self.model_dump())

    @hookimpl
    def hfx_eject(self, script: PlainScript) -> None:
        """Say the loss in plain code."""
        from hfx_plugins.tasks.plain_losses_impl import next_token_loss

        script.take_loss(next_token_loss)
