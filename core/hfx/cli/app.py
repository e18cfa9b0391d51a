"""The root command `hfx`: its subcommands by name, none of them imported."""

from __future__ import annotations

import click

from hfx.cli.lazy import LazyGroup
from hfx.cli.tracebacks import traceback_option

EPILOG = """\b
Examples:
  hfx train --plugin lion
  hfx train config.yaml --batch-size 64 --lion.lr 1e-4
  hfx plugins show lion
"""

COMMANDS = {
    "train": ("hfx.cli.train", "Train a model; without arguments, a small demonstration."),
    "plan": ("hfx.cli.plan", "Say what a run will hold in memory and take, before its first step."),
    "data": ("hfx.cli.data", "Prepare data and look at it, without training."),
    "config": ("hfx.cli.config", "Show, describe and validate the config of a run."),
    "plugins": ("hfx.cli.plugins", "List plugins, show one, check one, begin a new one."),
    "eval": ("hfx.cli.eval", "Say how good a run's checkpoint, or any model, is on some rows."),
    "runs": ("hfx.cli.runs", "List the runs in a folder, and what differs between them."),
    "watch": ("hfx.cli.watch", "Follow a run from another terminal."),
    "report": ("hfx.cli.report", "Write one HTML page about one or more runs."),
    "generate": ("hfx.cli.generate", "Continue a prompt with the model of a run."),
    "eject": ("hfx.cli.eject", "Write a run as one script without hfx."),
    "export": ("hfx.cli.export", "Write the model of any checkpoint of a run."),
    "doctor": ("hfx.cli.doctor", "Check this machine, and say how to mend what is wrong."),
    "completion": ("hfx.cli.completion", "Print the completion script for a shell."),
}


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"hfx {version('hfx')}")
        ctx.exit()


@click.command(
    cls=LazyGroup,
    table=COMMANDS,
    epilog=EPILOG,
    context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
@traceback_option
def cli() -> None:
    """Train Hugging Face models; every decision of a run is a plugin."""
