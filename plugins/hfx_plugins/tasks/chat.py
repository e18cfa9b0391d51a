"""Learning the answers of conversations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from hfx import Plugin, Problem, hookimpl

if TYPE_CHECKING:
    from hfx import PlainScript, Run, Task


class Chat(Plugin):
    """Learn the answers of conversations; what users, tools and the system say is read and not learned.

    Rows hold a list of messages (`role` and `content`, or ShareGPT's `from` and `value`), or the columns `prompt` and
    `completion`, or `instruction`, `input` and `output`; which it is, is told before the first step. The model's chat
    template writes them. What carries loss follows from the template's generation markers; without them, from how it
    writes a conversation up to an answer and behind it. Each row's is checked by decoding it.
    """

    messages: str | None = None
    """The column with the list of messages; none: the only one that holds such a list."""
    question: str | None = None
    """A column with what the user says, where a row holds one question and one answer."""
    answer: str | None = None
    """The column with the answer to `question`."""
    system: str | None = None
    """What the system says in conversations where it says nothing."""
    tools: str = "tools"
    """A column with the tools that may be called: a list of JSON schemas, or the JSON of one."""
    template: str | None = None
    """A file with the chat template (Jinja), in place of the tokenizer's own."""
    train_on: Literal["assistant", "last", "all"] = "assistant"
    """All answers, the last one of each conversation, or every word of it."""
    overflow: Literal["truncate", "drop"] = "truncate"
    """A conversation longer than `seq_length`: cut off behind the last answer that fits whole, or left out."""
    scores: list[Literal["rouge", "bleu", "chrf"]] = Field(default_factory=list)
    """Let every evaluation write the last answer of each conversation and score it against the given one: the mean
    F-measures of ROUGE-1, -2 and -L (0 to 1), BLEU, chrF (0 to 100)."""
    max_new_tokens: PositiveInt = 128
    """Most tokens of an answer that is scored."""
    num_beams: PositiveInt = 1
    """Beams that are searched for it; 1 takes the likeliest token each time."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Refuse half a pair of columns, two ways to say where a conversation is, and scores that cannot be had."""
        from hfx_plugins.tasks.generated_scores_impl import ALL_LEARNED, problems

        if (self.question is None) != (self.answer is None):
            missing = "answer" if self.answer is None else "question"
            yield Problem(f"'chat.question' and 'chat.answer' go together; add '--chat.{missing} COLUMN'")
        if self.messages and self.question:
            yield Problem("'chat.messages' and 'chat.question' both say where a conversation is; drop one of them")
        if self.scores and self.train_on == "all":
            yield Problem(ALL_LEARNED)
        yield from problems(run, "chat", self)

    @hookimpl
    def hfx_task(self, run: Run) -> Task:
        from hfx_plugins.tasks.chat_impl import build

        return build(run.tokenizer, run.config.seq_length, self.model_dump())

    @hookimpl
    def hfx_eject(self, script: PlainScript) -> None:
        """Say the loss in plain code."""
        from hfx_plugins.tasks.plain_losses_impl import next_token_loss

        script.take_loss(next_token_loss)
