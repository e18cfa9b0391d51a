"""The model of the best evaluation instead of the last step's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hfx import Plugin, Problem, hookimpl

if TYPE_CHECKING:
    from hfx import Run


class Best(Plugin):
    """Keep the checkpoint of the best evaluation beside the newest ones, and export its model at the end.

    An evaluation that is better than all before it saves a checkpoint of its step, whatever `save_every` says.
    """

    metric: str = "eval_loss"
    """The figure that decides: `eval_accuracy`, `eval_macro_f1`, `eval_f1`, ..."""
    higher: bool | None = None
    """Whether more of it is better; none: by its name, less of a loss, an error or a perplexity, more of all others."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Refuse a run with nothing to choose from."""
        from hfx_plugins.guards.scores_impl import nothing_to_compare

        yield from nothing_to_compare(run, self.name)

    @hookimpl
    def hfx_evaluated(self, run: Run, metrics: dict[str, Any]) -> None:
        """Choose this step where its figure is the best so far."""
        from hfx_plugins.guards.scores_impl import better, rises, value_of

        kept = run.state[self.name]
        value, higher = value_of(metrics, self.metric, self.name), rises(self.metric, self.higher)
        kept["evaluations"] = kept.get("evaluations", 0) + 1
        if better(value, kept.get("best"), higher):
            kept["best"] = value
            run.choose(f"its '{self.metric}' of {value:.6g} is the {'highest' if higher else 'lowest'}")
