"""What a run shows while it trains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from hfx import Plugin, hookimpl

if TYPE_CHECKING:
    from hfx import Run
    from hfx_plugins.tracking.progress_impl import Display


class Progress(Plugin):
    """A live bar on a terminal, plain lines elsewhere, both on stderr.

    Of several processes it says which one the others wait for, and for what share of the last 50 steps; beyond a fifth
    it is a warning.
    """

    every: float = Field(default=5.0, ge=0)
    """Seconds between plain lines; 0: a line for every step."""
    verbose: bool = False
    """Show the path of every checkpoint."""

    @hookimpl
    def hfx_step_end(self, run: Run, metrics: dict[str, Any]) -> None:
        """Show how far the run is."""
        if run.world.is_main:
            self._display(run).step(metrics)

    @hookimpl
    def hfx_evaluated(self, run: Run, metrics: dict[str, Any]) -> None:
        """Show the figures of an evaluation."""
        if run.world.is_main:
            self._display(run).evaluated(run.step, metrics)

    @hookimpl
    def hfx_saved(self, run: Run, path: Path) -> None:
        """Show where a checkpoint is."""
        if run.world.is_main and self.verbose:
            self._display(run).say(f"saved {path}")

    def _display(self, run: Run) -> Display:
        from hfx_plugins.tracking.progress_impl import open_display

        # Opened at the first event, when the length of the run is known; the run closes it however it ends.
        if "display" not in run.local.setdefault("progress", {}):
            run.local["progress"]["display"] = run.enter(open_display(run.step, run.total_steps, self.every))
        display: Display = run.local["progress"]["display"]
        return display
