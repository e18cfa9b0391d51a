"""Figures for Trackio."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from hfx import Problem, Run, hookimpl
from hfx_plugins.tracking.trackers_impl import Client, Tracker


class Trackio(Tracker):
    """Store a run's figures and config for Trackio's dashboard: `trackio show --project hfx`.

    A resumed run goes on in the newest run of its name and project.
    """

    unverified: ClassVar[str] = "tried on a local database: neither a Space nor a server was at hand"

    project: str = "hfx"
    """The project."""
    run_name: str | None = None
    """Name of the run; none: that of the output folder."""
    dir: Path | None = None
    """Folder of the databases; none: what `TRACKIO_DIR` says, else the one in which `trackio show` looks."""
    space_id: str | None = None
    """A Hugging Face Space to store the run in, as `user/name`."""
    private: bool | None = None
    """Whether a new Space is private; none: what the Hub does."""

    @hookimpl
    def hfx_check(self) -> Iterator[Problem]:
        """Report a missing package, and two places to store the run in."""
        if find_spec("trackio") is None:
            yield Problem("'trackio' needs the package 'trackio'; run: pip install 'hfx[trackio]'")

    def _open(self, run: Run, first: int) -> Client:
        from hfx_plugins.tracking.trackio_impl import open_run

        return open_run(self, run)
