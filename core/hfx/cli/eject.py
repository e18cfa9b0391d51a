"""`hfx eject`: a run as one plain script, without hfx."""

from __future__ import annotations

from pathlib import Path

import click

from hfx.cli.command import Command, traceback_option

EPILOG = """
Examples:
  hfx eject runs/mine
  hfx eject runs/mine --style trainer --output plain && python plain/train.py
"""


@click.command("eject", cls=Command, epilog=EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--style",
    type=click.Choice(["accelerate", "trainer"]),
    default="accelerate",
    help="A loop with accelerate, or transformers' Trainer. [default: accelerate]",
)
@click.option(
    "--output", metavar="FOLDER", type=click.Path(path_type=Path), help="Where to write. [default: RUN/STYLE]"
)
@traceback_option
def command(run: Path, style: str, output: Path | None) -> None:
    """Write one readable script that repeats a run without hfx, and the files that it reads.

    The script prints its losses beside those that the run recorded. What it trains on lies beside it, in order, as the
    run's plugins left it; so do the first weights. A plugin that has no counterpart in plain code is refused by name.
    """
    from hfx.cli.export import check_run, refuse_others
    from hfx.errors import UsageError
    from hfx.launch import world_from
    from hfx.layers import flag
    from hfx.quiet import quieten
    from hfx.resolve import resolve
    from hfx.resume import RUN_FILE

    if world_from().size > 1:
        raise UsageError("'hfx eject' is one process; start it without a launcher")
    check_run(run)
    target = output or run / style
    refuse_others(target)
    resolved = resolve(
        yaml_path=run / RUN_FILE,
        fields={name: flag(name, text) for name, text in (("nproc", "1"), ("nnodes", "1"), ("rdzv", "none"))},
    )
    for note in resolved.notes:
        click.echo(f"hfx: {note}", err=True)
    quieten()
    from hfx.eject import eject

    script = eject(resolved, run, target, style)
    click.echo(f"script: {script}")
