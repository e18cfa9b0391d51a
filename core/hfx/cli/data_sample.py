"""`hfx data sample`: rows, or what a rule drops and changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from hfx.cli.command import traceback_option
from hfx.cli.data_run import opened, shortened
from hfx.cli.run_command import RunCommand
from hfx.cli.shown import to_stdout
from hfx.data_lines import task_drops

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hfx.errors import HfxError
    from hfx.rows import RowSet
    from hfx.run import Run
    from hfx.table import ArrowTable

EPILOG = """
Examples:
  hfx data sample config.yaml --count 3
  hfx data sample config.yaml --plugin quality --rule quality.c4
"""
FROM_THE_START = 120
"""A changed row whose first change is no further than this is shown from its beginning."""
LEAD = 40
"""Characters before the first change of others."""


@click.command("sample", cls=RunCommand, epilog=EPILOG)
@click.option("--rule", help="Show rows this rule drops or changes: 'quality', 'quality.c4', or a whole reason.")
@click.option("--count", type=click.IntRange(min=1), default=5, show_default=True, help="Rows to show.")
@click.option("--full", is_flag=True, help="Show whole rows.")
@traceback_option
@click.pass_context
def command(ctx: click.Context, /, rule: str | None, count: int, full: bool, **_: Any) -> None:
    """Show rows as they are after cleaning, or rows that a rule drops or changes, as they were before it."""
    run = opened(ctx)
    lines = _after(run.rows("train"), count) if rule is None else _of_rule(run, rule, count, full)
    for where, text in lines:
        to_stdout(f"{where}  {text if full else shortened(text)}")


def _after(rows: RowSet, count: int) -> Iterator[tuple[str, str]]:
    """Yield rows spread over the whole of them."""
    count = min(count, len(rows))
    for index in range(count):
        at = index * len(rows) // count
        for row in rows.between(at, at + 1):
            yield str(row.place), json.dumps(row.values, ensure_ascii=False, default=str)


def _of_rule(run: Run, rule: str, count: int, full: bool) -> Iterator[tuple[str, str]]:
    """Yield rows as they were before the rule; of a changed one also what has become of it."""
    rows = run.cleaned("train")
    of_steps = sorted({*rows.report.dropped, *rows.report.changed})
    chosen = [reason for reason in of_steps if _belongs(reason, rule)]
    if chosen:
        return _of_steps(rows, chosen, count, full)
    tables = [(run.rows(split), run.prepared(split)) for split in ("train", "eval") if len(run.rows(split))]
    of_task = sorted({reason for _, table in tables for reason in task_drops(table)})
    chosen = [reason for reason in of_task if _belongs(reason, rule)]
    if not chosen:
        raise _unknown(rule, of_steps + of_task)
    return islice(chain.from_iterable(_of_task(rows, table, chosen) for rows, table in tables), count)


def _of_task(rows: RowSet, table: ArrowTable, chosen: list[str]) -> Iterator[tuple[str, str]]:
    """Yield rows that the task made no example of."""
    numbers = rows.numbers()
    for line in table.dropped():
        if line["reason"] in chosen:
            yield f"{line['place']}  no example ({line['reason']})", _now(rows, numbers, line["number"])


def _of_steps(rows: RowSet, chosen: list[str], count: int, full: bool) -> Iterator[tuple[str, str]]:
    from hfx.outcomes import outcomes_of

    found = (line for line in outcomes_of(rows) if line["reason"] in chosen and line["before"] is not None)
    shown = list(islice(found, count))
    changed = {line["number"] for line in shown if not line["dropped"]}
    dropped = {line["number"]: line["reason"] for line in outcomes_of(rows) if changed and line["dropped"]}
    numbers = rows.numbers()
    for line in shown:
        where, what = f"{line['file']}:{line['line']}", "dropped" if line["dropped"] else "changed"
        before, now, number = line["before"], None, line["number"]
        if number in dropped and not line["dropped"]:
            now = f"dropped by {dropped[number]}"
        elif not line["dropped"]:
            now = _now(rows, numbers, number)
            start = 0 if full else _start_of_difference(before, now)
            before, now = ("…" * (start > 0) + text[start:] for text in (before, now))
        yield f"{where}  {what} by {line['reason']}", before
        if now is not None:
            yield f"{where}  now", now


def _start_of_difference(before: str, now: str) -> int:
    """Return where to begin so that a reader sees what differs: a line holds only the beginning of a long row."""
    pairs = enumerate(zip(before, now, strict=False))
    same = next((at for at, (old, new) in pairs if old != new), min(len(before), len(now)))
    return same - LEAD if same > FROM_THE_START else 0


def _now(rows: RowSet, numbers: NDArray[np.int64], number: int) -> str:
    at = int(np.searchsorted(numbers, number))
    [row] = rows.between(at, at + 1)
    return json.dumps(row.values, ensure_ascii=False, default=str)


def _unknown(rule: str, reasons: list[str]) -> HfxError:
    from hfx.errors import ConfigError, nearest

    known = f"; there are {', '.join(repr(reason) for reason in reasons)}" if reasons else "; no rule did anything"
    return ConfigError(f"no row was dropped or changed by '{rule}'{known};{nearest(rule, reasons)}".rstrip(";"))


def _belongs(reason: str, rule: str) -> bool:
    """Return whether a reason is the rule's: `quality.c4` has `quality.c4_few_sentences`."""
    return reason == rule or reason.startswith((f"{rule}.", f"{rule}_"))
