"""`hfx plugins`: a list of what is installed, and commands about one plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hfx.cli.lazy import LazyGroup
from hfx.cli.tracebacks import traceback_option

if TYPE_CHECKING:
    from hfx.cli.plugins_list import Listed

EPILOG = """\b
Examples:
  hfx plugins
  hfx plugins --json | jq -r '.[].name'
  hfx plugins show lion
"""
COMMANDS = {
    "show": ("hfx.cli.plugins_show", "Show the options and hooks of one plugin."),
    "check": ("hfx.cli.plugins_check", "Run the conformance checks on one plugin."),
    "new": ("hfx.cli.plugins_new", "Write a new, installable plugin package."),
}


@click.command("plugins", cls=LazyGroup, table=COMMANDS, epilog=EPILOG, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@traceback_option
@click.pass_context
def command(ctx: click.Context, /, as_json: bool) -> None:
    """List the installed plugins: name, role, whether active by default, package, summary.

    Nothing is imported for it: role and summary are read from the source as text ('?' where there is none).
    """
    if ctx.invoked_subcommand is None:
        click.echo(_json() if as_json else _table())


def _json() -> str:
    import json
    from dataclasses import asdict

    from hfx.cli.plugins_list import installed

    return json.dumps([asdict(line) for line in installed()], indent=2)


def _table() -> str:
    from hfx.cli.columns import columns
    from hfx.cli.plugins_list import installed

    rows = [
        (line.name, line.role, line.default, f"{line.distribution} {line.version}", _summary(line))
        for line in installed()
    ]
    return columns(rows, ("name", "role", "default", "package", "summary"))


def _summary(line: Listed) -> str:
    return f"(unverified) {line.summary}" if line.unverified else line.summary
