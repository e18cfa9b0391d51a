"""`hfx config`: show, describe and validate the config of a run."""

from __future__ import annotations

import click

from hfx.cli.lazy import LazyGroup
from hfx.cli.tracebacks import traceback_option

EPILOG = """\b
Example:
  hfx config show config.yaml --plugin lion > resolved.yaml
"""
COMMANDS = {
    "show": ("hfx.cli.config_show", "Print the resolved config as YAML that `hfx train` takes back."),
    "schema": ("hfx.cli.config_schema", "Print the JSON schema of a config file, for editors."),
    "validate": ("hfx.cli.config_validate", "Say ok, or what is wrong."),
    "from-trainer": ("hfx.cli.config_from_trainer", "Translate the arguments of a transformers Trainer."),
}


@click.command("config", cls=LazyGroup, table=COMMANDS, epilog=EPILOG)
@traceback_option
def command() -> None:
    """Show, describe and validate the config of a run; takes the same arguments as `hfx train`."""
