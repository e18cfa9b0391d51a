"""What a run does about losses and gradients that are not finite, and about losses that spike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from hfx import Plugin, Problem, hookimpl

if TYPE_CHECKING:
    from hfx import Run


class Guard(Plugin):
    """Go back to a checkpoint where a run diverges, and leave out the batches it diverged on.

    An update whose gradients are not finite is never made. After `non_finite` such steps in a row the run goes back to
    the newest checkpoint before them, and goes on with the data behind them; so does one whose loss spikes, where
    `on_spike` says so (as PaLM was trained: https://arxiv.org/abs/2204.02311, section 5.1). It looks at figures that
    are summed over the ranks anyway, so all of them decide alike. Steps that fp16 skips while its scale comes down do
    not count.
    """

    non_finite: PositiveInt = 5
    """Steps in a row whose loss or gradient is not finite, after which the run goes back."""
    on_spike: Literal["warn", "rollback", "stop"] = "warn"
    """What a spike of the loss leads to: a `warn`ing; a `rollback`; or a `stop` after one more step, saved."""
    spike_steps: PositiveInt = 3
    """Steps in a row with a loss that is far too high which make a spike; fewer are hard batches."""
    spike_factor: PositiveFloat = 8.0
    """How far is too high: so many deviations (1.48 times the median deviation, 2 % or more) above the median."""
    window: int = Field(default=100, ge=4)
    """Losses that are remembered; nothing is a spike before half of them are there."""
    rollbacks: int = Field(default=2, ge=0)
    """How often a run goes back without getting to a newer checkpoint, before it ends with an error."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Warn of a rollback that will have nowhere to go."""
        every = run.config.save_every
        if self.on_spike != "rollback":
            return
        if every is None:
            yield Problem(
                "'guard.on_spike' is 'rollback', and without '--save-every' there is no checkpoint to go back to",
                fatal=False,
            )
        elif every * (run.config.keep - 1) < self.spike_steps:
            yield Problem(
                f"a spike is known after {self.spike_steps} steps, and the checkpoints that are kept may all be newer "
                f"than its first; add '--keep {-(-self.spike_steps // every) + 1}'",
                fatal=False,
            )

    @hookimpl
    def hfx_step_end(self, run: Run, metrics: dict[str, Any]) -> None:
        """Look at the step's figures, and write down, tell and do what they ask for."""
        from hfx_plugins.guards.guard_impl import look, react

        scaler = run.precision.scaler
        seen = look(run.state[self.name], metrics, scaler.get_scale() if scaler else None, self)
        if seen is not None:
            react(run, seen, self)
