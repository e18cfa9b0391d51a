"""Figures for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from hfx import Problem, Run, hookimpl
from hfx_plugins.tracking.trackers_impl import Client, Tracker


class Tensorboard(Tracker):
    """Write a run's figures and config as event files: `tensorboard --logdir runs` shows them.

    The names are those of `metrics.jsonl`, the values in single precision. A resumed run writes a new event file which
    hides the steps behind its checkpoint, so none is shown twice.
    """

    dir: Path | None = None
    """Folder of several runs, each a folder in it; none: `tensorboard` in the run's output."""
    run_name: str | None = None
    """Name of the run in `dir`; none: that of the output folder."""

    @hookimpl
    def hfx_check(self) -> Iterator[Problem]:
        """Report a missing package."""
        if find_spec("tensorboard") is None:
            yield Problem("'tensorboard' needs the package 'tensorboard'; run: pip install 'hfx[tensorboard]'")
        if self.run_name is not None and self.dir is None:
            yield Problem("'tensorboard.run_name' names a folder in 'tensorboard.dir'; give that, too")

    def _open(self, run: Run, first: int) -> Client:
        from hfx_plugins.tracking.tensorboard_impl import open_events

        return open_events(self, run, first)
