"""`hfx data cache`: what lies prepared on this disk."""

from __future__ import annotations

import time

import click

from hfx.cli.columns import columns
from hfx.cli.command import Command, traceback_option

GROUP_EPILOG = """\b
Examples:
  hfx data cache list
  hfx data cache prune --unused-days 30
"""
EPILOG = """
Examples:
  hfx data cache list
  hfx data cache prune --unused-days 30
"""


@click.group("cache", epilog=GROUP_EPILOG)
def command() -> None:
    """List or prune prepared data (`HFX_CACHE`, else `hfx` in the user's cache folder)."""


@command.command("list", cls=Command, epilog=EPILOG)
@traceback_option
def list_entries() -> None:
    """List prepared folders."""
    from hfx.cache import cache_root, entries

    found = entries(cache_root())
    rows = [(e.stage, _megabytes(e.size), f"{_days(e.used):.1f}", str(e.path)) for e in found]
    click.echo(columns(rows, ("stage", "size", "days unused", "path")) or f"nothing in '{cache_root()}'")
    if found:
        click.echo(f"{len(found)} folders, {_megabytes(sum(e.size for e in found))}")


@command.command("prune", cls=Command, epilog=EPILOG)
@click.option(
    "--unused-days", type=click.FloatRange(min=0), default=30.0, show_default=True, help="Remove what is unused longer."
)
@traceback_option
def prune_entries(unused_days: float) -> None:
    """Remove what was not used for long."""
    from hfx.cache import cache_root, prune

    removed = prune(cache_root(), unused_days)
    click.echo(f"removed {len(removed)} folders, {_megabytes(sum(entry.size for entry in removed))}")


def _days(used: float) -> float:
    return (time.time() - used) / 86_400


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
