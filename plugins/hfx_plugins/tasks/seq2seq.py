"""Writing one text from another: translation, summaries, with an encoder and a decoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from hfx import Plugin, Problem, hookimpl

if TYPE_CHECKING:
    from hfx import PlainScript, Run, Task


class Seq2Seq(Plugin):
    """Write one text from another, by models with an encoder and a decoder (T5, BART, Marian).

    Rows hold a source and a target: columns named so, or `document`, `article`, `dialogue` or `text` with `summary` or
    `highlights`, or `translation` with a text for each of two languages.
    """

    source: str | None = None
    """The column that is read; of `translation` the language."""
    target: str | None = None
    """The column that is written; of `translation` the language."""
    prefix: str | None = None
    """What comes before every source: `summarize: ` for T5; none: nothing."""
    target_length: PositiveInt | None = None
    """Most tokens of a target; none: `seq_length`, which is that of a source."""
    overflow: Literal["truncate", "drop"] = "truncate"
    """A source or target that is too long: cut off, or left out."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of a label that is spread over all tokens."""
    scores: list[Literal["rouge", "bleu", "chrf"]] = Field(default_factory=list)
    """Let every evaluation write a text for each source and score it against its target: the mean F-measures of
    ROUGE-1, -2 and -L (0 to 1), BLEU, chrF (0 to 100)."""
    max_new_tokens: PositiveInt | None = None
    """Most tokens of a text that is scored; none: `target_length`."""
    num_beams: PositiveInt = 1
    """Beams that are searched for it; 1 takes the likeliest token each time."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Refuse half a pair of columns, packing, smoothing without all logits, and scores that cannot be had."""
        from hfx_plugins.tasks.generated_scores_impl import problems

        names = {active.name for active in run.active}
        if (self.source is None) != (self.target is None):
            missing = "target" if self.target is None else "source"
            yield Problem(f"'seq2seq.source' and 'seq2seq.target' go together; add '--seq2seq.{missing} COLUMN'")
        if "packing" in names:
            yield Problem(
                "'packing' puts several examples into a sequence, and 'seq2seq' has two; drop '--plugin packing'"
            )
        if self.label_smoothing and "chunked_loss" in names:
            yield Problem(
                "'seq2seq.label_smoothing' and 'chunked_loss' each bring a loss of their own; drop '--plugin "
                "chunked_loss', or '--seq2seq.label-smoothing'"
            )
        yield from problems(run, "seq2seq", self)

    @hookimpl
    def hfx_task(self, run: Run) -> Task:
        from hfx_plugins.tasks.seq2seq_impl import build

        return build(run.tokenizer, run.config.seq_length, self.model_dump())

    @hookimpl
    def hfx_eject(self, script: PlainScript) -> None:
        """Say the loss in plain code."""
        from hfx_plugins.tasks.plain_losses_impl import target_loss

        script.take_loss(target_loss, label_smoothing=self.label_smoothing)
