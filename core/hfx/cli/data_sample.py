"""`hfx data sample`: rows, or what a rule drops and changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from hfx.cli.command import traceback_option
from hfx.cli.data_run import opened, shortened, to_stdout
from hfx.cli.run_command import RunCommand

if TYPE_CHECKING:
    from hfx.rows import RowSet

EPILOG = """
Examples:
  hfx data sample config.yaml --count 3
  hfx data sample config.yaml --plugin quality --rule quality.c4
"""


@click.command("sample", cls=RunCommand, epilog=EPILOG)
@click.option("--rule", help="Show rows this rule drops or changes: 'quality', 'quality.c4', or a whole reason.")
@click.option("--count", type=click.IntRange(min=1), default=5, show_default=True, help="Rows to show.")
@click.option("--full", is_flag=True, help="Show whole rows.")
@traceback_option
@click.pass_context
def command(ctx: click.Context, /, rule: str | None, count: int, full: bool, **_: Any) -> None:
    """Show rows as they are after cleaning, or rows that a rule drops or changes, as they were before it."""
    rows = opened(ctx).rows("train")
    lines = _after(rows, count) if rule is None else _before(rows, rule, count)
    for where, text in lines:
        to_stdout(f"{where}  {text if full else shortened(text)}")


def _after(rows: RowSet, count: int) -> Iterator[tuple[str, str]]:
    """Yield rows spread over the whole of them."""
    for at in range(0, len(rows), max(1, len(rows) // count)):
        for row in rows.between(at, at + 1):
            yield str(row.place), json.dumps(row.values, ensure_ascii=False, default=str)


def _before(rows: RowSet, rule: str, count: int) -> Iterator[tuple[str, str]]:
    from hfx.errors import ConfigError, nearest
    from hfx.stages import outcomes_of

    report = rows.report
    reasons = sorted({*report.dropped, *report.changed})
    chosen = [reason for reason in reasons if _belongs(reason, rule)]
    if not chosen:
        known = f"; there are {', '.join(repr(reason) for reason in reasons)}" if reasons else "; no rule did anything"
        raise ConfigError(f"no row was dropped or changed by '{rule}'{known};{nearest(rule, reasons)}".rstrip(";"))
    found = (line for line in outcomes_of(rows) if line["reason"] in chosen and line["before"] is not None)
    for line in islice(found, count):
        what = "dropped" if line["dropped"] else "changed"
        yield f"{line['file']}:{line['line']}  {what} by {line['reason']}", line["before"]


def _belongs(reason: str, rule: str) -> bool:
    """Return whether a reason is the rule's: `quality.c4` has `quality.c4_few_sentences`."""
    return reason == rule or reason.startswith((f"{rule}.", f"{rule}_"))
