"""`hfx data explain`: which rows of which files a step trains on, computed from the config alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from hfx.cli.command import traceback_option
from hfx.cli.data_run import LEDGER, opened, shortened
from hfx.cli.run_command import RunCommand
from hfx.cli.shown import to_stdout
from hfx.data_lines import no_example
from hfx.errors import DataError
from hfx.figures import line_of

if TYPE_CHECKING:
    from hfx.order import GlobalBatch, Sequence
    from hfx.run import Run

EPILOG = """
Examples:
  hfx data explain runs/mine --step 120
  hfx data explain config.yaml --step 1 --text
"""


@click.command("explain", cls=RunCommand, epilog=EPILOG)
@click.option("--step", type=click.IntRange(min=1), required=True, help="The optimizer step, counted from 1.")
@click.option("--text", is_flag=True, help="Show what the rows hold.")
@traceback_option
@click.pass_context
def command(ctx: click.Context, /, step: int, text: bool, **_: Any) -> int:
    """Show the sequences of a step in order: file and row, part, tokens. No step before it is computed.

    Where the run's folder holds a ledger, the step is compared with what the run recorded; a difference exits with 1.
    """
    run = opened(ctx)
    if not len(run.table("train")):
        raise DataError(no_example(run.prepared("train")))
    if not (run.streams and run.config.steps is None) and step > run.total_steps:
        click.echo(f"hfx: step {step} is behind the run's last step {run.total_steps}", err=True)
    position = run.order.position_of_step(step)
    batch = next(run.order.batches(position))
    at = f"epoch {position.epoch}, block {position.block}, window {position.window}, bin {position.bin}"
    to_stdout(f"step {step}: {len(batch.sequences)} sequences, {batch.tokens:,} tokens, from {at}")
    for number, sequence in enumerate(batch.sequences):
        for line in _sequence(run, sequence, text):
            to_stdout(f"{number:>4}  {line}")
    told, same = _ledger(run, step, batch)
    click.echo(told)
    return 0 if same else 1


def _sequence(run: Run, sequence: Sequence, text: bool) -> list[str]:
    columns = [sequence.table.column(name)[sequence.rows] for name in ("row", "part", "length")]
    return [_example(run, *(int(value) for value in values), text=text) for values in zip(*columns, strict=True)]


def _example(run: Run, number: int, part: int, length: int, *, text: bool) -> str:
    rows = run.rows("train")
    found = np.flatnonzero(rows.numbers() == number)
    if not len(found):  # a row of a later block of a stream
        return f"row {number}, part {part}, {length} tokens"
    [row] = rows.between(int(found[0]), int(found[0]) + 1)
    shown = f"  {shortened(json.dumps(row.values, ensure_ascii=False, default=str), 100)}" if text else ""
    return f"{row.place}, part {part}, {length} tokens{shown}"


def _ledger(run: Run, step: int, batch: GlobalBatch) -> tuple[str, bool]:
    """Return what the ledger says of a step, and whether that is no contradiction."""
    ledger = Path(run.output) / LEDGER
    digest = batch.digest()
    for line in ledger.read_text(encoding="utf-8", errors="replace").splitlines() if ledger.is_file() else ():
        recorded = line_of(line)  # the last one of a killed run may be torn
        if recorded and recorded["step"] == step and "rows" in recorded:
            same = recorded["rows"] == digest
            return f"rows {digest}: {'as' if same else 'NOT as'} the ledger of '{run.output}' recorded", same
    return f"rows {digest}", True
