"""`hfx data inspect`: what the data is, before anything is decided about it."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from hfx.cli.command import traceback_option
from hfx.cli.data_run import opened, shortened
from hfx.cli.run_command import RunCommand
from hfx.cli.shown import to_stdout
from hfx.data_lines import data_summary

if TYPE_CHECKING:
    from hfx.rows import RowSet
    from hfx.run import Run

EPILOG = """
Examples:
  hfx data inspect --data labelled.jsonl
  hfx data inspect config.yaml --plugin classification
"""
LOOKED_AT = 10_000
MOST_VALUES = 20
"""A column with no more different values than this is shown with their counts."""


@click.command("inspect", cls=RunCommand, epilog=EPILOG)
@click.option("--rows", "count", type=click.IntRange(min=0), default=3, show_default=True, help="First rows to show.")
@traceback_option
@click.pass_context
def command(ctx: click.Context, /, count: int, **_: Any) -> None:
    """Show columns and their types, balance of labels, lengths in characters, first rows, and how the data resumes."""
    run = opened(ctx)
    rows = run.rows("train")
    to_stdout(f"data      {data_summary(run)}")
    to_stdout(f"rows      {rows.report.read:,} read, {len(rows):,} to train on")
    for line in [*_columns(rows), *_resuming(run)]:
        to_stdout(line)
    for row in islice(rows, count):
        values = json.dumps(row.values, ensure_ascii=False, default=str)
        to_stdout(f"{row.place}  {shortened(values)}")


def _columns(rows: RowSet) -> list[str]:
    kinds: dict[str, Counter[str]] = {}
    lengths: dict[str, list[int]] = {}
    values: dict[str, Counter[str]] = {}
    for row in islice(rows, LOOKED_AT):
        for name, value in row.values.items():
            kinds.setdefault(name, Counter())[type(value).__name__] += 1
            if isinstance(value, str):
                lengths.setdefault(name, []).append(len(value))
            if isinstance(value, str | int | bool) and len(values.setdefault(name, Counter())) <= MOST_VALUES:
                values[name][shortened(str(value), 40)] += 1
    return [_column(name, kinds[name], sorted(lengths.get(name, [])), values.get(name, Counter())) for name in kinds]


def _column(name: str, kinds: Counter[str], lengths: list[int], values: Counter[str]) -> str:
    parts = [" or ".join(f"{kind} ({count:,})" for kind, count in kinds.most_common())]
    if lengths:
        parts.append(f"characters median {lengths[len(lengths) // 2]:,}, longest {lengths[-1]:,}")
    if 0 < len(values) <= MOST_VALUES:
        parts.append(", ".join(f"{value} {count:,}" for value, count in values.most_common()))
    return f"column    {name}: " + "; ".join(parts)


def _resuming(run: Run) -> list[str]:
    rows = run._source("train")
    if rows.source.indexed:
        return ["resumes   indexed: prepared once, and any position is found again without reading what is before it"]
    return [f"resumes   a stream, prepared {rows.block:,} rows at a time: a resumed run reads from its block on"]
