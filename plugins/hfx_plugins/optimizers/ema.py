"""An exponential moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hfx import Plugin, Run, hookimpl

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hfx import RunResult


class EMA(Plugin):
    """Keep an average of the weights over the last steps, and export it: less noise than the last step's weights.

    The average of the trained parameters lies beside them, in float32, and in every checkpoint; it begins as they are
    before its first step. Training and evaluations go on with the weights themselves.
    """

    decay: float = Field(default=0.999, gt=0, lt=1)
    """How much of the average stays at a step: 0.999 averages about the last 1000 steps."""
    warmup: bool = True
    """Begin with a smaller decay, (1 + step) / (10 + step): the first weights would weigh too much."""
    save: Literal["averaged", "both"] = "averaged"
    """What is exported: `averaged` weights; or `both`, the trained ones and the averaged in `model-ema` beside them."""

    @hookimpl(wrapper=True)
    def hfx_optimizer(self, run: Run) -> Generator[None, Optimizer, Optimizer]:
        """Return the optimizer as it is, the average made: memory is then planned with it."""
        from hfx_plugins.optimizers.ema_impl import begin

        optimizer = yield
        begin(run.model, run.state[self.name])
        run.local[f"{self.name}.made"] = next(iter(run.state[self.name].values()), None)
        return optimizer

    @hookimpl(wrapper=True)
    def hfx_run(self, run: Run) -> Generator[None, RunResult, RunResult]:
        """Let the average begin at the weights of a checkpoint that has none."""
        self._begin_at_what_was_loaded(run)
        return (yield)

    def _begin_at_what_was_loaded(self, run: Run) -> None:
        """Let an average that was made before weights were loaded, and did not come with them, begin as they are."""
        from hfx_plugins.optimizers.ema_impl import begin

        made = run.local.pop(f"{self.name}.made", None)
        if run.step and made is next(iter(run.state[self.name].values()), None):
            begin(run.model, run.state[self.name])

    @hookimpl
    def hfx_step_end(self, run: Run) -> None:
        """Move the average towards the weights."""
        from hfx_plugins.optimizers.ema_impl import update

        decay = min(self.decay, (1 + run.step) / (10 + run.step)) if self.warmup else self.decay
        update(run.model, run.state[self.name], decay)

    @hookimpl(wrapper=True)
    def hfx_export(self, run: Run, path: Path) -> Generator[None, Path, Path]:
        """Let the export write the averaged weights, or do so beside it."""
        from hfx_plugins.optimizers.ema_impl import averaged

        self._begin_at_what_was_loaded(run)
        beside = path.with_name(f"{path.name}-ema")
        exporting = run.local.get(self.name)
        if self.save == "both" and not exporting:
            written = yield
            run.local[self.name] = True
            try:
                run.hooks.export(run=run, path=beside)
            finally:
                del run.local[self.name]
            return written
        with averaged(run.model, run.state[self.name]):
            written = yield
        return written
