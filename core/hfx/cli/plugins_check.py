"""`hfx plugins check NAME`: the conformance kit, from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hfx.cli import suggest
from hfx.cli.command import Command, traceback_option

if TYPE_CHECKING:
    from hfx.testing import Check

EPILOG = """
Example:
  hfx plugins check lion
"""


@click.command("check", cls=Command, epilog=EPILOG)
@click.argument("name", shell_complete=suggest.complete_plugins)
@traceback_option
def command(name: str) -> int:
    """Run the checks of 'hfx.testing' on one plugin; exit 1 if any fails."""
    from hfx.quiet import quieten

    quieten()
    from hfx.testing import plugin_checks

    outcomes = [_passes(check) for check in plugin_checks(name)]
    failed = outcomes.count(False)
    click.echo(f"{len(outcomes) - failed} of {len(outcomes)} checks passed")
    return 1 if failed or not outcomes else 0


def _passes(check: Check) -> bool:
    try:
        check()
    except AssertionError as error:
        reason = " ".join(str(error).split()) or "an assertion without words"
        click.echo(f"FAIL  {check}: {reason}")
        return False
    click.echo(f"pass  {check}")
    return True
