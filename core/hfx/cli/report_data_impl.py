"""What `hfx report` says of a run's data: `data_report.json`, and rows that were left out, from the cache."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from hfx.errors import StorageError

EXAMPLES = 4
"""Rows shown for each reason."""
_LONGEST = 600
"""Characters of a row."""
_KEY = re.compile(r"[0-9a-f]{32}")
_LOOKED_AT = 200_000
"""Outcomes that are looked through for examples."""
Example = dict[str, str]


def data_of(report: dict[str, Any], cache: Path) -> dict[str, Any]:
    """Return what the page says of the data of a run: `reasons`, `lengths`, and why there are no examples.

    Args:
        report: What `data_report.json` holds.
        cache: The folder of prepared data.
    """
    task = {name: count for name, count in _counts(report, "task").items() if name.startswith("dropped.") and count}
    found, missing = _examples(report, cache)
    reasons = [
        *_reasons("dropped", _counts(report, "dropped"), found),
        *_reasons("changed", _counts(report, "changed"), found),
        *_reasons("no example", {name.removeprefix("dropped."): count for name, count in task.items()}, found),
        *(_reasons("unreadable", {"unreadable": _rows(report)["bad"]}, found) if _rows(report).get("bad") else []),
    ]
    return {
        "rows": _rows(report),
        "reasons": reasons,
        "most": max((reason["count"] for reason in reasons), default=1),
        "missing": missing if reasons else None,
        "lengths": _lengths(report),
    }


def _rows(report: dict[str, Any]) -> dict[str, int]:
    return _counts(report, "rows")


def _counts(report: dict[str, Any], name: str) -> dict[str, int]:
    found = report.get(name)
    return (
        {str(key): value for key, value in found.items() if isinstance(value, int)} if isinstance(found, dict) else {}
    )


def _reasons(what: str, counts: dict[str, int], found: dict[str, list[Example]]) -> list[dict[str, Any]]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        {"what": what, "name": name, "count": count, "examples": found.get(f"{what} {name}", [])}
        for name, count in ordered
    ]


def _lengths(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the bars of the histogram: from, to (tokens, both inclusive), examples."""
    lengths = report.get("lengths")
    if not isinstance(lengths, dict):
        return []
    edges, counts = lengths.get("edges"), lengths.get("counts")
    if not isinstance(edges, list) or not isinstance(counts, list):
        return []
    return [
        {"from": low, "to": high - 1, "count": count}
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
        if all(isinstance(value, int) for value in (low, high, count))
    ]


# ── examples ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _examples(report: dict[str, Any], cache: Path) -> tuple[dict[str, list[Example]], str | None]:
    """Return rows by what happened and why, or why there are none."""
    key = str(report.get("fingerprint", "")).partition("/")[0]
    if not _KEY.fullmatch(key):
        return {}, "the run did not write down where its prepared data lies"
    stage = cache / "rows" / key
    if not stage.is_dir():
        return {}, f"the prepared data is not in the cache '{cache}' (HFX_CACHE), so there are no examples"
    found: dict[str, list[Example]] = defaultdict(list)
    try:
        for name, example in (*_of_stages(stage, cache), *_bad(stage, cache), *_of_task(report, stage, cache)):
            if len(found[name]) < EXAMPLES:
                found[name].append(example)
    except (OSError, ValueError, KeyError, TypeError, StorageError) as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        return dict(found), f"the prepared data in '{stage}' is damaged: {said}"
    return dict(found), None


def _stages(stage: Path, cache: Path) -> list[Path]:
    names = json.loads((stage / "report.json").read_text(encoding="utf-8"))["stages"]
    return [cache / "rows" / name for name in names if _KEY.fullmatch(name)]


def _of_stages(stage: Path, cache: Path) -> Iterator[tuple[str, Example]]:
    from hfx.outcomes import outcomes_in

    for folder in _stages(stage, cache):
        for outcome in islice(outcomes_in(folder), _LOOKED_AT) if (folder / "outcomes.arrow").exists() else ():
            if outcome.before is not None:
                name = f"{'dropped' if outcome.dropped else 'changed'} {outcome.reason}"
                yield name, {"where": str(outcome.place), "text": _short(outcome.before)}


def _bad(stage: Path, cache: Path) -> Iterator[tuple[str, Example]]:
    path = _stages(stage, cache)[0] / "quarantine.jsonl"
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            for text in islice(file, EXAMPLES):
                line = json.loads(text)
                yield (
                    "unreadable unreadable",
                    {"where": f"{line['file']}:{line['row']}", "text": _short(line["reason"])},
                )


def _of_task(report: dict[str, Any], stage: Path, cache: Path) -> Iterator[tuple[str, Example]]:
    """Yield rows that the task made no example of, with their values where the row store has them."""
    key = report.get("table")
    path = cache / "table" / str(key) / "dropped.jsonl"
    if not isinstance(key, str) or not _KEY.fullmatch(key) or not path.is_file():
        return
    seen: dict[str, int] = defaultdict(int)
    with path.open(encoding="utf-8") as file:
        for text in islice(file, _LOOKED_AT):
            line = json.loads(text)
            seen[line["reason"]] += 1
            if seen[line["reason"]] <= EXAMPLES:
                values = _values(stage, cache, line["number"])
                yield f"no example {line['reason']}", {"where": line["place"], "text": _short(values)}


def _values(stage: Path, cache: Path, number: int) -> str:
    """Return the values of a row as JSON, from the last stage that holds rows; empty where it is not among them."""
    import pyarrow as pa

    stores = [folder for folder in _stages(stage, cache) if (folder / "rows.arrow").exists()]
    if not stores:
        return ""
    with pa.memory_map(str(stores[-1] / "rows.arrow")) as file:
        reader = pa.ipc.open_file(file)
        for at in range(reader.num_record_batches):
            batch = reader.get_batch(at)
            numbers = batch.column("number").to_numpy()
            if len(numbers) and numbers[0] <= number <= numbers[-1]:
                [places] = (numbers == number).nonzero()
                return str(batch.column("values")[int(places[0])].as_py()) if len(places) else ""
    return ""


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
