"""A run whose data alone is wanted: what the commands of `hfx data` open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hfx.cli.run_command import RunArguments, arguments
from hfx.resume import RUN_FILE

if TYPE_CHECKING:
    from hfx.resolve import Resolved
    from hfx.run import Run

LEDGER = "ledger.jsonl"


def opened(ctx: click.Context, *plugins: str) -> Run:
    """Return the run that was typed, with these plugins, too; checked, with nothing built.

    Raises:
        IncompatibleError: a plugin's check refuses it.
    """
    from hfx.api import refuse
    from hfx.protocols import World
    from hfx.quiet import quieten
    from hfx.run import Run

    typed = arguments(ctx)
    typed.plugins = (*typed.plugins, *plugins)
    resolved = typed.resolve()
    for note in resolved.notes:
        click.echo(f"hfx: {note}", err=True)
    for message in refuse(resolved):
        click.echo(f"hfx: warning: {message}", err=True)
    quieten()
    return Run(resolved, _output(typed, resolved), World())


def _output(typed: RunArguments, resolved: Resolved) -> Path:
    """Return the folder of the run that CONFIG is the file of, else where a run would write."""
    config = typed.config
    if config is not None and config.name == RUN_FILE and (config.parent / LEDGER).is_file():
        return config.parent
    return Path(resolved.config.output or "runs/new")


def shortened(text: str, most: int = 200) -> str:
    """Return a text on one line, cut where a terminal's reader would stop."""
    flat = text.replace("\n", "\\n")
    return flat if len(flat) <= most else f"{flat[:most]}…"
