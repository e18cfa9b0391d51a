"""`hfx data stats`: the report on prepared data."""

from __future__ import annotations

import json
from typing import Any

import click

from hfx.cli.command import traceback_option
from hfx.cli.data_run import opened
from hfx.cli.run_command import RunCommand
from hfx.cli.shown import to_stdout

EPILOG = """
Examples:
  hfx data stats config.yaml
  hfx data stats --data 'texts/*.jsonl' --model gpt2 --json | jq .lengths
"""


@click.command("stats", cls=RunCommand, epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as in a run's data_report.json.")
@traceback_option
@click.pass_context
def command(ctx: click.Context, /, as_json: bool, **_: Any) -> None:
    """Show counts, drops by reason, lengths, sources, vocabulary and waste; prepares what is not prepared yet."""
    from hfx.data_report import as_lines, data_report

    report = data_report(opened(ctx))
    if as_json and report["warning"]:
        click.echo(f"hfx: warning: {report['warning']}", err=True)
    for line in [json.dumps(report, indent=1)] if as_json else as_lines(report):
        to_stdout(line)
