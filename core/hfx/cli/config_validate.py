"""`hfx config validate`: ok, or what is wrong."""

from __future__ import annotations

from typing import Any

import click

from hfx.cli.command import traceback_option
from hfx.cli.run_command import RunCommand, arguments

EPILOG = """
Example:
  hfx config validate config.yaml --plugin lion
"""


@click.command("validate", cls=RunCommand, epilog=EPILOG)
@traceback_option
@click.pass_context
def command(ctx: click.Context, /, **_: Any) -> None:
    """Resolve the config without running it: say ok, or what is wrong (exit 2)."""
    resolved = arguments(ctx).resolve()
    click.echo(f"ok: {len(resolved.plugins)} plugins: {', '.join(active.name for active in resolved.plugins)}")
