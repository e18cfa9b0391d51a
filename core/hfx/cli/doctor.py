"""`hfx doctor`: this machine, and how to mend what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from hfx.cli.command import Command, traceback_option

if TYPE_CHECKING:
    from hfx.cli.doctor_line import Line

NAMES = ("python", "torch", "transformers", "accelerate", "deepspeed", "device", "cores", "memory", "threads", "shm",
         "ranks", "folder", "runs", "cache", "policy", "plugins")  # fmt: skip
"""The checks, in the order in which they are told."""
EPILOG = """
Examples:
  hfx doctor
  hfx doctor ranks cache --json
"""


@click.command("doctor", cls=Command, epilog=EPILOG)
@click.argument("checks", nargs=-1, type=click.Choice(NAMES), metavar="[CHECK]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a list of check, state, measured and advice.")
@traceback_option
def command(checks: tuple[str, ...], as_json: bool) -> int:
    """Check this machine: packages, devices, memory, disks, ranks, policy, plugins; all, or those that are named.

    Exit 1 if something is wrong. It takes some seconds, asks nothing of the network, and leaves nothing behind.
    """
    from hfx.cli.doctor_impl import examined

    lines = examined([name for name in NAMES if name in checks or not checks])
    if as_json:
        import json
        from dataclasses import asdict

        told = list(lines)
        click.echo(json.dumps([asdict(line) for line in told], indent=1))
    else:
        told = list(_printed(lines))
        click.echo(_sum(told))
    return 1 if any(line.state == "wrong" for line in told) else 0


def _printed(lines: Iterable[Line]) -> Iterable[Line]:
    from hfx.cli.shown import to_stdout

    for line in lines:
        advice = f"; {line.advice}" if line.advice else ""
        to_stdout(f"{line.state:<8} {line.check:<13} {line.measured}{advice}")
        yield line


def _sum(told: list[Line]) -> str:
    states = [line.state for line in told]
    warnings = f", {states.count('warning')} to look at" if "warning" in states else ""
    return f"{states.count('wrong') or 'nothing'} wrong{warnings}"
