"""The end of a run that no longer gets better."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeFloat, PositiveInt

from hfx import Plugin, Problem, hookimpl

if TYPE_CHECKING:
    from hfx import Run, RunResult


class EarlyStopping(Plugin):
    """End the run, saved and exported, once its evaluations have not got better for a while.

    With `--plugin best` it is the model of the best evaluation that is exported, not the last one.
    """

    metric: str = "eval_loss"
    """The figure that decides: `eval_accuracy`, `eval_macro_f1`, `eval_f1`, ..."""
    higher: bool | None = None
    """Whether more of it is better; none: by its name, less of a loss, an error or a perplexity, more of all others."""
    patience: PositiveInt = 3
    """Evaluations in a row without a better figure, after which the run ends."""
    min_delta: NonNegativeFloat = 0.0
    """A figure has to be better by more than this."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Refuse a run with nothing to compare."""
        from hfx_plugins.guards.scores_impl import nothing_to_compare

        yield from nothing_to_compare(run, self.name)

    @hookimpl(wrapper=True)
    def hfx_run(self, run: Run) -> Generator[None, RunResult, RunResult]:
        """Let a run that had ended so be over when it is resumed, but where more patience is asked for."""
        self._end(run)
        return (yield)

    @hookimpl
    def hfx_evaluated(self, run: Run, metrics: dict[str, Any]) -> None:
        """Count the evaluations since the best one, and end the run; all ranks have the same figures."""
        from hfx_plugins.guards.scores_impl import better, rises, value_of

        kept = run.state[self.name]
        value = value_of(metrics, self.metric, self.name)
        if better(value, kept.get("best"), rises(self.metric, self.higher), self.min_delta):
            kept.update(best=value, without=0)
            return
        kept["without"] = kept.get("without", 0) + 1
        self._end(run)

    def _end(self, run: Run) -> None:
        if (without := run.state[self.name].get("without", 0)) >= self.patience:
            run.stop_now(f"'{self.metric}' has not got better for {without} evaluations")
