"""Guessing tokens that were masked, as encoders are trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hfx import Plugin, Problem, hookimpl

if TYPE_CHECKING:
    from hfx import PlainScript, Run, Task


class MaskedLM(Plugin):
    """Guess tokens that were masked, from all that is around them (BERT, https://arxiv.org/abs/1810.04805).

    Of a text's tokens a share is chosen. Most of them are masked, some become another token, some stay, and all are
    guessed. Which they are is drawn anew whenever a row is seen, from the run's seed, unless `static` fixes it.
    """

    text: str | None = None
    """The column to read; none: `text`, `content`, or the only column that holds a string."""
    share: float = Field(default=0.15, gt=0, lt=1)
    """Share of the tokens that are guessed, at least one of each text."""
    masked: float = Field(default=0.8, ge=0, le=1)
    """Share of these that is masked."""
    replaced: float = Field(default=0.1, ge=0, le=1)
    """Share of these that becomes any other token; the rest stays as it is."""
    whole_words: bool = False
    """Choose words, all of whose tokens are guessed."""
    static: bool = False
    """Choose the same tokens of a text each time."""
    overflow: Literal["split", "truncate", "drop"] = "split"
    """A row longer than `seq_length`: cut into parts without overlap, cut off, or left out."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Refuse shares that are more than everything."""
        if self.masked + self.replaced > 1:
            yield Problem("'masked_lm.masked' and 'masked_lm.replaced' are more than 1 together; lower one of them")

    @hookimpl
    def hfx_task(self, run: Run) -> Task:
        from hfx_plugins.tasks.masked_lm_impl import build

        return build(run.tokenizer, run.config.seq_length, self.model_dump())

    @hookimpl
    def hfx_eject(self, script: PlainScript) -> None:
        """Say the loss in plain code."""
        from hfx_plugins.tasks.plain_losses_impl import token_loss

        script.take_loss(token_loss)
