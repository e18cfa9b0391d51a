"""What the model writes while it learns."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field, NonNegativeFloat, PositiveInt

from hfx import Plugin, Problem, RunResult, hookimpl

if TYPE_CHECKING:
    from hfx import Run


class Samples(Plugin):
    """Let the model go on with some prompts after every evaluation, and write down what it says.

    The texts are lines of `metrics.jsonl` (`"event": "sample"`), and are printed. The `chat` task's prompts are what a
    user says, in the chat template.
    """

    prompts: list[str] = Field(default_factory=list)
    """What to go on with, or to answer."""
    max_new_tokens: PositiveInt = 48
    """Most tokens of a text."""
    temperature: NonNegativeFloat = 0.0
    """0 takes the likeliest token; else what is drawn depends on the seed and the step."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Refuse a run without prompts, one that has a model in pieces, and one whose model writes nothing."""
        roles = {role: run.resolved.roles[role].plugin for role in ("backend", "task")}
        if not self.prompts:
            yield Problem("'samples' has no prompts; add '--samples.prompts \\'[Once upon a time]\\''")
        if roles["backend"] in ("fsdp", "zero"):
            yield Problem(
                f"'samples' writes with a whole model, and '{roles['backend']}' has it in pieces; drop '--plugin "
                "samples', or take '--plugin ddp'"
            )
        if roles["task"] in ("classification", "token_classification", "masked_lm"):
            yield Problem(f"'{roles['task']}' trains a model that writes no text; drop '--plugin samples'")

    @hookimpl(wrapper=True)
    def hfx_run(self, run: Run) -> Generator[None, RunResult, RunResult]:
        """Refuse prompts that the model cannot go on with, before step 1."""
        from hfx_plugins.tracking.samples_impl import check

        check(run, self)
        return (yield)

    @hookimpl
    def hfx_evaluated(self, run: Run, metrics: dict[str, Any]) -> None:
        """Write on the main rank; the others wait for it in the next step."""
        if run.world.is_main:
            from hfx_plugins.tracking.samples_impl import write

            write(run, self)
