"""Telling which label each word of a text has: names, parts of speech."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hfx import Plugin, hookimpl

if TYPE_CHECKING:
    from hfx import PlainScript, Run, Task


class TokenClassification(Plugin):
    """Predict the label of each word: reports accuracy, and of labels such as `B-PER` how well entities are found.

    Rows hold a list of words and a list of as many labels, names or numbers. A word's first token carries its label,
    and the tokens behind it none. Precision, recall and F1 are those of entities that are right as a whole, as CoNLL's
    script and `seqeval` count them.
    """

    words: str | None = None
    """The column with the list of words; none: `tokens`, `words`, or the only one that holds a list of strings."""
    labels: str | None = None
    """The column with the list of labels; none: `ner_tags`, `tags`, `labels`, or the only other list."""
    names: list[str] = Field(default_factory=list)
    """Names of labels that are numbers, from 0 on: `[O, B-PER, I-PER]`."""
    overflow: Literal["split", "truncate", "drop"] = "split"
    """A row longer than `seq_length`: cut into parts between words, cut off, or left out."""

    @hookimpl
    def hfx_task(self, run: Run) -> Task:
        from hfx_plugins.tasks.token_classification_impl import build

        return build(run.tokenizer, run.config.seq_length, self.model_dump())

    @hookimpl
    def hfx_eject(self, script: PlainScript) -> None:
        """Say the loss in plain code."""
        from hfx_plugins.tasks.plain_losses_impl import token_loss

        script.take_loss(token_loss)
