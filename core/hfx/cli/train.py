"""`hfx train`: resolve, then run."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from hfx.cli.command import traceback_option
from hfx.cli.run_command import RunCommand, arguments

if TYPE_CHECKING:
    from hfx.protocols import RunResult
    from hfx.resolve import Resolved

EPILOG = """
Examples:
  hfx train                                     a small demonstration
  hfx train --model gpt2 --data 'texts/*.jsonl' --plugin lion --lion.lr 1e-4
  hfx train config.yaml --steps 100 --dry-run   what would run, and why
  hfx train --plugin lion --help                the options of lion, too
"""
STOPPED = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 75}
"""Exit codes of a run that saved and ended early; a scheduler takes 75 as: run me again."""


@click.command("train", cls=RunCommand, epilog=EPILOG)
@click.option("--dry-run", is_flag=True, help="Print the resolved config and who provides each role; train nothing.")
@traceback_option
@click.pass_context
def command(ctx: click.Context, /, dry_run: bool, **_: Any) -> int:
    """Train a model. Without a config, model or data, run a small demonstration.

    An option of a plugin is written --NAME.OPTION VALUE; it always takes a value.
    """
    typed = arguments(ctx)
    resolved = typed.resolve()
    if dry_run:
        from hfx.cli.dry_run import refuse_problems, report

        click.echo(report(resolved))
        refuse_problems(resolved)
        return 0
    from hfx.api import execute

    result = execute(resolved, sys.argv)
    if os.environ.get("RANK", "0") == "0":
        click.echo(_ending(resolved, result))
    return STOPPED.get(result.stopped or "", 0)


def _ending(resolved: Resolved, result: RunResult) -> str:
    lines = [f"run: {result.path}"]
    if all(active.name != "progress" for active in resolved.plugins):
        figures = "  ".join(f"{name} {value:.4g}" for name, value in result.metrics.items())
        lines.append(f"step {result.step}  {figures}".rstrip())
    return "\n".join(lines)
