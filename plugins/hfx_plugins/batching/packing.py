"""Several examples a sequence, none of which sees another."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from hfx import Plugin, Problem, hookimpl

if TYPE_CHECKING:
    from hfx import Batcher, Run, RunResult

_BY_ROW = ("classification",)
"""Tasks of hfx whose loss is over rows; that of others is known when their task is built."""


class Packing(Plugin):
    """Fill sequences with whole examples, so that hardly a position is padding.

    Positions restart with every example, by which the model keeps them apart; a model that does not is refused before
    the first step.
    """

    window: int = Field(default=10_000, ge=1)
    """Examples, in the order of the sampler, that are packed together: more waste less and order less freely."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        task = run.resolved.roles["task"].plugin
        if task in _BY_ROW:
            yield Problem(
                f"'packing' needs a task whose loss is over tokens, and '{task}' has one label a row;"
                " add '--plugin no:packing'"
            )

    @hookimpl
    def hfx_batcher(self, run: Run) -> Batcher:
        from hfx_plugins.batching.packing_impl import build

        return build(run.task, run.config.seq_length, self.window)

    @hookimpl(wrapper=True)
    def hfx_run(self, run: Run) -> Generator[None, RunResult, RunResult]:
        """Refuse a model in which packed examples see each other, then train."""
        from hfx_plugins.batching.isolation_impl import check_isolation

        check_isolation(run)
        return (yield)
