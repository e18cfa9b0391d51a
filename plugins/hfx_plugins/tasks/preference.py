"""Preferring one answer to another: DPO and its kin."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field, PositiveFloat

from hfx import Plugin, Problem, hookimpl

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfx import PlainScript, Run, RunResult, Task


class Preference(Plugin):
    """Prefer one answer to another (DPO, https://arxiv.org/abs/2305.18290): reports how often it is the right one.

    Rows hold `prompt`, `chosen` and `rejected`, texts or lists of messages; or `chosen` and `rejected` alone, two
    texts or conversations that begin alike. How much more likely an answer has become is measured against the model
    as it was: under adapters against their base, else against what the model says of every pair before the first
    step, which is saved with the run.
    """

    loss: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    """`sigmoid` is DPO's; `hinge` SLiC's (https://arxiv.org/abs/2305.10425); `ipo` (https://arxiv.org/abs/2310.12036)."""
    beta: PositiveFloat = 0.1
    """How dear it is to move away from the model as it was."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of pairs that are taken to be labelled the wrong way round, with `sigmoid`."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Refuse what a loss over pairs cannot be combined with."""
        names = {active.name for active in run.active}
        if "chunked_loss" in names:
            yield Problem(
                "'chunked_loss' sums over tokens, and 'preference' looks at each pair; drop '--plugin chunked_loss'"
            )
        if self.label_smoothing and self.loss != "sigmoid":
            yield Problem(f"'preference.label_smoothing' is for the loss 'sigmoid', and it is '{self.loss}'; drop it")

    @hookimpl
    def hfx_task(self, run: Run) -> Task:
        from hfx_plugins.tasks.preference_impl import build

        return build(run.tokenizer, run.config.seq_length, self.model_dump())

    @hookimpl(wrapper=True)
    def hfx_model(self, run: Run) -> Generator[None, PreTrainedModel, PreTrainedModel]:
        """Let the task know what a checkpoint has of the pairs, and that a plan asks the model nothing."""
        model = yield
        task = cast("Any", run.task)
        task.remembered = run.state[self.name]
        task.planning = run.planning
        return model

    @hookimpl(wrapper=True)
    def hfx_run(self, run: Run) -> Generator[None, RunResult, RunResult]:
        """Before the first step, take down what the model says of every pair."""
        from hfx_plugins.tasks.preference_impl import know_reference

        know_reference(run, self.name)
        return (yield)

    @hookimpl
    def hfx_eject(self, script: PlainScript, run: Run) -> None:
        """Say the loss in plain code, and what the model says of every pair before training."""
        from hfx_plugins.tasks.plain_losses_impl import preference_loss
        from hfx_plugins.tasks.preference_impl import reference_columns

        script.columns.append(reference_columns(run, self.name))
        script.take_loss(preference_loss, loss=self.loss, beta=self.beta, label_smoothing=self.label_smoothing)
