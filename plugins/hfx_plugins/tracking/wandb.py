"""Figures for Weights & Biases."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from hfx import Problem, Run, hookimpl
from hfx_plugins.tracking.trackers_impl import Client, Tracker


class Wandb(Tracker):
    """Send a run's figures and config to Weights & Biases, or keep them in the run's output for `wandb sync`.

    The key is wandb's own affair (`wandb login`, `WANDB_API_KEY`); hfx neither takes nor writes it. Without a key or a
    connection at the start the run is kept offline. A resumed run goes on under the same id.
    """

    unverified: ClassVar[str] = "tried offline alone: no server of Weights & Biases was at hand"

    project: str = "hfx"
    """The project."""
    run_name: str | None = None
    """Name of the run; none: that of the output folder."""
    entity: str | None = None
    """The user or team whose project it is; none: wandb's default."""
    tags: list[str] = Field(default_factory=list)
    """Tags of the run."""
    mode: Literal["online", "offline"] | None = None
    """`offline`: nothing is sent, `wandb sync` sends it later; none: what `WANDB_MODE` says, else online."""
    dir: Path | None = None
    """Folder in which wandb makes its folder `wandb`; none: the run's output."""

    @hookimpl
    def hfx_check(self) -> Iterator[Problem]:
        """Report a missing package."""
        if find_spec("wandb") is None:
            yield Problem("'wandb' needs the package 'wandb'; run: pip install 'hfx[wandb]'")

    def _open(self, run: Run, first: int) -> Client:
        from hfx_plugins.tracking.wandb_impl import open_run

        return open_run(self, run)
