"""Tasks of EleutherAI's lm-evaluation-harness, done by a model while it learns."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, NonNegativeInt, PositiveInt

from hfx import Plugin, Problem, hookimpl

if TYPE_CHECKING:
    from hfx import Run, RunResult


class LmEval(Plugin):
    """Let the model do tasks of the lm-evaluation-harness after every evaluation, and write down its figures.

    They are lines of `metrics.jsonl` (`"event": "lm_eval"`), one a task, and are printed. An exported model needs no
    plugin: `lm_eval --model hf --model_args pretrained=RUN/model --tasks ...`.
    """

    tasks: list[str] = Field(default_factory=list)
    """Names of tasks: `[lambada_openai, hellaswag]`; `lm_eval ls tasks` lists them."""
    include: Path | None = None
    """A folder with tasks of your own, as YAML files."""
    limit: PositiveInt | None = None
    """Most documents of a task; none: all."""
    fewshot: NonNegativeInt | None = None
    """Solved examples before each document; none: as many as the task says."""
    batch_size: PositiveInt = 8
    """Texts at a time."""
    every: PositiveInt = 1
    """Do it after every so many evaluations."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Refuse a run without tasks, and a model in pieces or of another kind."""
        roles = {role: run.resolved.roles[role].plugin for role in ("backend", "task")}
        if not self.tasks:
            yield Problem("'lm_eval' has no tasks; add '--lm-eval.tasks \\'[lambada_openai]\\''")
        if roles["backend"] in ("fsdp", "zero"):
            yield Problem(
                f"'lm_eval' asks a whole model, and '{roles['backend']}' has it in pieces; drop '--plugin lm_eval', or "
                "take '--plugin ddp'"
            )
        if roles["task"] not in ("causal_lm", "chat", "preference"):
            yield Problem(f"'lm_eval' asks causal language models, and '{roles['task']}' trains none of them; drop it")

    @hookimpl(wrapper=True)
    def hfx_run(self, run: Run) -> Generator[None, RunResult, RunResult]:
        """Look for the tasks and their documents before the first step."""
        if run.world.is_main:
            from hfx_lm_eval.harness_impl import check

            check(self)
        return (yield)

    @hookimpl
    def hfx_evaluated(self, run: Run, metrics: dict[str, Any]) -> None:
        """Do the tasks on the main rank; the others wait for it in the next step."""
        kept = run.state[self.name]
        kept["evaluations"] = kept.get("evaluations", 0) + 1
        if run.world.is_main and kept["evaluations"] % self.every == 0:
            from hfx_lm_eval.harness_impl import write

            write(run, self)
