"""`hfx plugins check NAME`: the conformance kit, from the command line."""

from __future__ import annotations

import click

from hfx.cli import suggest
from hfx.cli.command import Command, traceback_option

EPILOG = """
Example:
  hfx plugins check lion
"""


@click.command("check", cls=Command, epilog=EPILOG)
@click.argument("name", shell_complete=suggest.complete_plugins)
@traceback_option
def command(name: str) -> int:
    """Run the checks of 'hfx.testing' on one plugin; exit 1 if any fails."""
    from hfx.testing import plugin_checks

    outcomes = [_run(label, check) for label, check in plugin_checks(name)]
    failed = outcomes.count(False)
    click.echo(f"{len(outcomes) - failed} of {len(outcomes)} checks passed")
    return 1 if failed or not outcomes else 0


def _run(label: str, check: object) -> bool:
    assert callable(check)
    try:
        check()
    except Exception as error:  # noqa: BLE001 - a check fails by raising, whatever it raises
        reason = " ".join(str(error).split()) or "an assertion without words"
        click.echo(f"FAIL  {label}: {type(error).__name__}: {reason}")
        return False
    click.echo(f"pass  {label}")
    return True
