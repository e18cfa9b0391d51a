"""`hfx config show`: the resolved config as YAML."""

from __future__ import annotations

from typing import Any

import click

from hfx.cli.command import traceback_option
from hfx.cli.run_command import RunCommand, arguments

EPILOG = """
Examples:
  hfx config show config.yaml --plugin lion > resolved.yaml && hfx train resolved.yaml
  hfx config show config.yaml --origin
"""


@click.command("show", cls=RunCommand, epilog=EPILOG)
@click.option("--origin", is_flag=True, help="Add a table, as comments, of where each value comes from.")
@traceback_option
@click.pass_context
def command(ctx: click.Context, /, origin: bool, **_: Any) -> None:
    """Print the resolved config as YAML that `hfx train` takes back unchanged."""
    from hfx.cli.dry_run import origins
    from hfx.resolve import to_yaml

    resolved = arguments(ctx).resolve()
    click.echo(to_yaml(resolved).rstrip())
    if origin:
        click.echo("\n" + "\n".join(f"# {line}" for line in origins(resolved).splitlines()))
