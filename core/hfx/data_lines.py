"""What is said of a run's rows, alike before its first step and by `hfx data`: where they come from, what is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfx.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from hfx.rows import RowReport, RowSet
    from hfx.run import Run
    from hfx.table import ArrowTable

_SHOWN = 5


def data_summary(run: Run) -> str:
    """Return one phrase on what is read to train on, and to evaluate on where that is something else."""
    told = _source_summary(run, "train")
    return f"{told}; to evaluate on: {_source_summary(run, 'eval')}" if run.config.eval_data is not None else told


def _source_summary(run: Run, split: str) -> str:
    source = run._source(split).source
    return str(source.summary()) if hasattr(source, "summary") else type(source).__name__


def rows_phrase(run: Run) -> str:
    """Return how many rows were read, left out by the steps, trained on and evaluated on, and what the task does."""
    rows, table = run.rows("train"), run.prepared("train")
    report, counts, held = rows.report, table.meta["counts"], run.rows("eval")
    parts = [f"{report.read:,} read"]
    if report.bad:
        parts.append(f"{report.bad:,} bad")
    if report.dropped:
        parts.append(f"{sum(report.dropped.values()):,} dropped ({reasons(report.dropped)})")
    parts.append(f"{len(rows):,} to train on{_without_example(table)}")
    parts.append(f"{len(held):,} to evaluate on{_without_example(run.prepared('eval')) if len(held) else ''}")
    parts += [f"{counts[key]:,} {key}" for key in ("split", "truncated") if counts.get(key)]
    return ", ".join(parts)


def quarantine_lines(report: RowReport, rows: RowSet) -> list[str]:
    """Return the line that says where unreadable rows are listed."""
    path = quarantine_of(report, rows)
    return [f"bad        {report.bad:,} unreadable rows are listed in {path}"] if path else []


def quarantine_of(report: RowReport, rows: RowSet) -> Path | None:
    """Return the file of the rows that cannot be read, or None where all can."""
    return rows.stage.parent / report.stages[0] / "quarantine.jsonl" if report.bad else None


def detected(marks: dict[str, dict[str, int]]) -> list[str]:
    """Return what a task found out about the form of the rows, a phrase for each mark it left on them."""
    return [f"{name}: {_counted(values)}" for name, values in marks.items()]


def _counted(values: dict[str, int]) -> str:
    most = list(values.items())[:_SHOWN]
    more = f", and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return ", ".join(f"{value} ({number:,} row{'s' if number != 1 else ''})" for value, number in most) + more


def _without_example(table: ArrowTable) -> str:
    dropped = task_drops(table)
    number = sum(dropped.values())
    yields = "yields" if number == 1 else "yield"
    return f", of which {number:,} {yields} no example ({reasons(dropped)})" if dropped else ""


def task_drops(table: ArrowTable) -> dict[str, int]:
    """Return the rows of a table that the task made no example of, by reason."""
    counts: dict[str, int] = table.meta["counts"]
    return {name.removeprefix("dropped."): n for name, n in counts.items() if name.startswith("dropped.") and n}


def reasons(counts: dict[str, int]) -> str:
    """Return reasons with their counts, the largest first."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def no_example(table: ArrowTable) -> str:
    """Return what is wrong with a table that holds no example."""
    why = reasons(task_drops(table)) or "the task returned none"
    return f"none of {table.meta['counts'].get('rows', 0)} rows yields an example ({why}); look at the task's options"


def refuse_empty(run: Run, split: str, rows: RowSet) -> None:
    """Refuse data of which no row is left.

    Raises:
        DataError: no row is left, and what left them out.
    """
    if not len(rows):
        raise DataError(nothing_left(run, split, rows.report))


def nothing_left(run: Run, split: str, report: RowReport) -> str:
    """Return what left out all rows of a split's data: the steps by their reasons, or that there were none."""
    named = split == "eval" and run.config.eval_data is not None
    field, purpose = ("eval_data", " to evaluate on") if named else ("data", "")
    if not report.read:
        return f"{_data_name(run, field)} has no rows{purpose}; look at '{field}'"
    dropped = report.dropped | ({"unreadable": report.bad} if report.bad else {})
    block = " of the first block" if run.streams else ""
    told = f"all {report.read:,} rows{block}{purpose} were dropped ({reasons(dropped)})"
    if not report.dropped:
        return f"{told}; mend them"
    largest = max(report.dropped.items(), key=lambda item: item[1])[0]
    return f"{told}; 'hfx data sample --rule {largest}' shows rows that were"


def _data_name(run: Run, field: str) -> str:
    data: str | dict[str, str] | None = getattr(run.config, field)
    if data is None:
        return f"the source ({_source_summary(run, 'train')})"
    return ", ".join(f"'{name}'" for name in ([data] if isinstance(data, str) else data.values()))
