"""`hfx data`: prepare data and look at it, without training."""

from __future__ import annotations

import click

from hfx.cli.lazy import LazyGroup
from hfx.cli.tracebacks import traceback_option

EPILOG = """\b
Examples:
  hfx data prepare config.yaml --num-proc 8
  hfx data stats --data 'texts/*.jsonl' --model gpt2
  hfx data explain runs/mine --step 120
"""
COMMANDS = {
    "prepare": ("hfx.cli.data_prepare", "Read, clean and tokenize into the cache; a run then starts at once."),
    "inspect": ("hfx.cli.data_inspect", "Show columns, first rows, lengths, labels, and how the data resumes."),
    "sample": ("hfx.cli.data_sample", "Show rows, or rows that a rule drops or changes."),
    "stats": ("hfx.cli.data_stats", "Show counts, lengths, sources, duplicates and waste."),
    "explain": ("hfx.cli.data_explain", "Show which rows of which files a step trains on."),
    "cache": ("hfx.cli.data_cache", "List or prune prepared data."),
}


@click.command("data", cls=LazyGroup, table=COMMANDS, epilog=EPILOG)
@traceback_option
def command() -> None:
    """Prepare data and look at it; takes the same arguments as `hfx train`, and trains nothing."""
