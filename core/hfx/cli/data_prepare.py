"""`hfx data prepare`: fill the cache."""

from __future__ import annotations

from typing import Any

import click

from hfx.cli.command import traceback_option
from hfx.cli.data_run import opened
from hfx.cli.run_command import RunCommand
from hfx.cli.shown import to_stdout
from hfx.errors import ConfigError

EPILOG = """
Examples:
  hfx data prepare config.yaml --num-proc 8
  hfx data prepare --data 'texts/*.jsonl' --model gpt2 --seq-length 1024
  hfx data prepare config.yaml --executor datatrove --datatrove.tasks 64
"""


@click.command("prepare", cls=RunCommand, epilog=EPILOG)
@click.option(
    "--executor",
    metavar="NAME",
    help="Plugin whose machines share cleaning and deduplication: 'datatrove'. The same as --plugin NAME.",
)
@traceback_option
@click.pass_context
def command(ctx: click.Context, /, executor: str | None, **_: Any) -> None:
    """Read, clean, deduplicate, split and tokenize into the cache, and say what came of it.

    A run with the same data, tokenizer and options then starts at once. Ctrl-C loses only the stage it interrupts.
    """
    from hfx.data_report import as_lines, data_report

    run = opened(ctx, *([executor] if executor else []))
    if executor and run._source("train").executor is None:
        raise ConfigError(f"'{executor}' is no executor; 'datatrove' is one")
    for line in as_lines(data_report(run)):
        to_stdout(line)
    table = run.prepared("train")
    if len(run.rows("eval")):
        run.table("eval")
    click.echo(f"prepared    {table.path}")
