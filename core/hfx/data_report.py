"""The report on prepared data: what was read, dropped and changed, how long it is, what a shorter cut costs.

`data_report.json` in the run directory, and the table of `hfx data stats`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hfx.data_lines import detected, no_example, nothing_left, quarantine_of
from hfx.padding import padding_of
from hfx.redact import redacted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hfx.protocols import Values
    from hfx.run import Run
    from hfx.table import ArrowTable

PERCENTILES = (90, 95, 99)
LOOKED_AT = 500_000
"""Tokens from the beginning that vocabulary and n-grams are counted in."""
MOST_VALUES, _SHOWN = 1_000, 10
"""Values of a mark that are counted one by one, and that are shown to a reader: the most frequent ones."""


def data_report(run: Run) -> Values:
    """Return what is known about the data of a run, as JSON values; prepares it where that is still to do.

    `warning` says what would refuse the run; where no row is left, there is nothing about tokens.
    """
    return redacted(_found(run))


def _found(run: Run) -> Values:
    cleaned = run.cleaned("train")
    report, quarantine = cleaned.report, quarantine_of(cleaned.report, cleaned)
    found: Values = {
        "rows": {"read": report.read, "bad": report.bad, "kept": report.kept, "train": 0, "eval": 0},
        "quarantine": str(quarantine) if quarantine else None,
        "dropped": report.dropped,
        "changed": report.changed,
        "facts": report.facts,
        "marks": {name: dict(counts.most_common(MOST_VALUES)) for name, counts in sorted(cleaned.marks().items())},
    }
    if not len(cleaned):
        return found | {"warning": nothing_left(run, "train", report)}
    found["rows"] |= {"train": len(run.rows("train")), "eval": len(run.rows("eval"))}
    found["fingerprint"] = run.rows("train").fingerprint  # under which `hfx export` finds the tokenizer again
    table = run.prepared("train")
    return found | {"warning": None if len(table) else no_example(table), **_of_table(run, table)}


def _of_table(run: Run, table: ArrowTable) -> Values:
    lengths = table.column("length").astype(np.int64)
    whole = _row_lengths(table)
    return {
        "table": table.fingerprint,  # under which the cache keeps it, and what the task made no example of
        "task": table.meta["counts"],
        "detected": table.meta["marks"],
        "tokens": {"total": int(lengths.sum()), "examples": len(table), "units": int(table.column("units").sum())},
        "lengths": _histogram(lengths),
        "padding": round(padding_of(run).share, 4),
        "sources": _sources(table, lengths),
        "vocabulary": _vocabulary(table, len(run.tokenizer)),
        "seq_length": [_at_length(whole, int(np.percentile(whole, p)), p) for p in PERCENTILES] if len(whole) else [],
    }  # fmt: skip


def _row_lengths(table: ArrowTable) -> NDArray[np.int64]:
    """Return the tokens of each row, its parts together, `(rows,)`."""
    row, length = table.column("row"), table.column("length").astype(np.int64)
    if not len(row):
        return length
    starts = np.flatnonzero(np.r_[True, row[1:] != row[:-1]])
    found: NDArray[np.int64] = np.add.reduceat(length, starts)
    return found


def _histogram(lengths: NDArray[np.int64]) -> Values:
    if not len(lengths):
        return {"edges": [], "counts": []}
    edges = np.unique(2 ** np.arange(0, int(lengths.max()).bit_length() + 1))
    counts, _ = np.histogram(lengths, edges)
    points = {f"p{p}": int(np.percentile(lengths, p)) for p in (50, *PERCENTILES)}
    return {"edges": edges.tolist(), "counts": counts.tolist(), **points, "longest": int(lengths.max())}


def _sources(table: ArrowTable, lengths: NDArray[np.int64]) -> Values:
    source, row = table.column("source"), table.column("row")
    total = max(1, int(lengths.sum()))
    found: Values = {}
    for index, name in enumerate(table.meta["sources"]):
        own = source == index
        tokens = int(lengths[own].sum())
        found[name] = {"rows": len(np.unique(row[own])), "tokens": tokens, "share": round(tokens / total, 4)}
    return found


def _vocabulary(table: ArrowTable, size: int) -> Values:
    """Return how much of the vocabulary and how many different n-grams the first tokens hold."""
    if "input_ids" not in table.meta["task_columns"]:
        return {}
    ids = table.flat("input_ids", LOOKED_AT).astype(np.uint64)
    found: Values = {"size": size, "seen": len(np.unique(ids)), "looked_at": len(ids)}
    for n in (2, 3):
        grams = np.zeros(max(0, len(ids) - n + 1), np.uint64)
        for offset in range(n):
            # 2**21 tokens fit three times into 64 bits, so equal grams and only those are equal numbers.
            grams = (grams << np.uint64(21)) | ids[offset : offset + len(grams)]
        found[f"distinct_{n}grams"] = round(len(np.unique(grams)) / max(1, len(grams)), 4)
    return found


def _at_length(whole: NDArray[np.int64], seq_length: int, percentile: int) -> Values:
    """Return what a run would keep of the rows, cut at this length: rows left whole, tokens, and attention's cost."""
    cut = np.minimum(whole, seq_length)
    longest = max(1, int(whole.max()))
    return {
        "percentile": percentile,
        "seq_length": seq_length,
        "rows_whole": int((whole <= seq_length).sum()),
        "tokens": int(cut.sum()),
        "tokens_share": round(int(cut.sum()) / max(1, int(whole.sum())), 4),
        "memory_share": round(seq_length / longest, 4),
    }


def as_lines(report: Values) -> list[str]:
    """Return the report as lines for a reader."""
    rows = report["rows"]
    lines = [
        f"rows        {rows['read']:,} read, {rows['bad']:,} bad, {rows['kept']:,} kept; "
        f"{rows['train']:,} to train on, {rows['eval']:,} to evaluate on",
        *([f"bad         the unreadable rows are listed in {report['quarantine']}"] if report["quarantine"] else []),
        *(f"dropped     {count:,}  {reason}" for reason, count in _largest_first(report["dropped"])),
        *(f"changed     {count:,}  {reason}" for reason, count in _largest_first(report["changed"])),
        *(f"found       {step}: " + ", ".join(f"{k} {v:,}" for k, v in facts.items())
          for step, facts in report["facts"].items()),
        *(f"rows by     {name}: {_shares(counts, rows['kept'])}" for name, counts in report["marks"].items()),
        *(f"detected    {found}" for found in detected(report.get("detected", {}))),
        *(f"task        {_task_phrase(name, count)}" for name, count in report.get("task", {}).items()
          if count and name != "rows"),
    ]  # fmt: skip
    if report["warning"]:
        return [*lines, f"warning     {report['warning']}"]
    return lines + _token_lines(report)


def _shares(counts: dict[str, int], rows: int) -> str:
    most = _largest_first(counts)
    shown = ", ".join(f"{value} {count:,} ({count / rows:.1%})" for value, count in most[:_SHOWN])
    return f"{shown} and {len(most) - _SHOWN} more" if len(most) > _SHOWN else shown


def _task_phrase(name: str, count: int) -> str:
    rows = "1 row" if count == 1 else f"{count:,} rows"
    reason = name.removeprefix("dropped.")
    return f"{rows} {name}" if reason == name else f"{rows} without an example ({reason})"


def _token_lines(report: Values) -> list[str]:
    tokens, lengths = report["tokens"], report["lengths"]
    lines = [
        f"tokens      {tokens['total']:,} in {tokens['examples']:,} examples, {tokens['units']:,} units of loss; "
        f"{report['padding']:.0%} of a batch's positions are padding"
    ]
    if lengths["counts"]:
        points = ", ".join(f"{name} {lengths[name]}" for name in ("p50", "p90", "p95", "p99", "longest"))
        lines.append(f"lengths     {points}")
        most = max(lengths["counts"])
        for low, high, count in zip(lengths["edges"], lengths["edges"][1:], lengths["counts"], strict=False):
            lines.append(f"  {low:>6} to {high - 1:<6} {count:>10,} {'█' * round(30 * count / most)}")
    lines += [f"source      {name}: {of['rows']:,} rows, {of['tokens']:,} tokens, {of['share']:.1%}"
              for name, of in report["sources"].items()]  # fmt: skip
    if words := report["vocabulary"]:
        lines.append(
            f"vocabulary  {words['seen']:,} of {words['size']:,} tokens seen; {words['distinct_2grams']:.0%} of the "
            f"2-grams and {words['distinct_3grams']:.0%} of the 3-grams differ (first {words['looked_at']:,} tokens)"
        )
    lines += [
        f"at {of['seq_length']:<8,} ({of['percentile']}th percentile) {of['rows_whole']:,} rows whole, "
        f"{of['tokens_share']:.1%} of the tokens, {of['memory_share']:.0%} of the longest row's positions"
        for of in report["seq_length"]
    ]
    return lines


def _largest_first(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
