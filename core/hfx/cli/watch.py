"""`hfx watch`: follow a run from another terminal, or from another machine that sees its folder."""

from __future__ import annotations

from pathlib import Path

import click

from hfx.cli.command import Command, traceback_option

EPILOG = """
Examples:
  hfx watch runs/mine
  hfx watch runs/mine --every 60 >> mine.log
"""


@click.command("watch", cls=Command, epilog=EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--every",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    help="Seconds between lines where there is no terminal; 0: a line for every step.",
)
@traceback_option
def command(run: Path, every: float) -> int:
    """Show a run while it trains: progress, loss, speed, memory, evaluations, what went wrong, the time that is left.

    It reads the run's folder and writes nothing. It ends when the run ends: with 0 if that finished or was asked to
    stop, else with 1. Ctrl-C ends the watching, never the run.
    """
    from hfx.cli.export import check_run
    from hfx.cli.watch_impl import Watched, follow

    check_run(run)
    try:
        standing = follow(Watched(run), every)
    except KeyboardInterrupt:
        click.echo(f"left '{run}' as it is", err=True)
        return 0
    return 0 if standing.how in ("finished", "stopped") else 1
