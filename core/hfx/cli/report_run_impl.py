"""What the page of `hfx report` says of one run beside its charts: its figures, and what happened on its way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from hfx.cli import shown
from hfx.cli.curves import column, smoothed, stretches
from hfx.cli.report_charts_impl import COLORS, PARTS
from hfx.figures import Figures
from hfx.run_folder import RunFolder, Standing, number

SAMPLE = "sample"
"""The event of what a model wrote."""
_MOST_SAMPLES = 60
_MOST_EVENTS = 200


@dataclass(frozen=True)
class Told:
    """A run, read whole."""

    run: RunFolder
    name: str
    figures: Figures
    standing: Standing


def run_values(at: int, told: Told, events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the page says of one run beside its charts."""
    run, figures = told.run, told.figures
    evaluated = [
        (loss, line["step"]) for line in figures.evaluations if (loss := _finite(line["eval_loss"])) is not None
    ]
    best = min(evaluated, default=None)
    status, total = run.status, run.total_steps
    steps = column(figures["step"])
    last = int(steps[-1]) if len(steps) else 0
    return {
        "at": at,
        "name": told.name,
        "path": str(run.path),
        "color": COLORS[at % len(COLORS)],
        "status": told.standing.how,
        "why": told.standing.why,
        "step": max(last, told.standing.step or 0, run.step),
        "total": total,
        "begun": run.begun.astimezone().strftime("%Y-%m-%d %H:%M") if run.begun else None,
        "took": _took(run),
        "starts": number(status.get("starts")) or 1,
        "ranks": number(status.get("ranks")) or 1,
        "device": status.get("device"),
        "host": status.get("host"),
        "loss": _last_smooth(figures),
        "best_eval": best and best[0],
        "best_eval_step": best and best[1],
        "last_eval": run.last_eval,
        "tokens": _last(figures, "tokens_total"),
        "speed": _speed(figures),
        "memory": _most(figures, "memory_bytes"),
        "planned_memory": number(run.plan.get("peak_bytes")),
        "planned_seconds": number(run.plan.get("seconds_per_step")),
        "time": _time(figures),
        "communication": _communication(figures),
        "fill": _fill(told),
        "checkpoints": [
            {"name": saved.path.name, "step": saved.step, "files": saved.files, "size": saved.size,
             "at": datetime.fromtimestamp(saved.at).strftime("%Y-%m-%d %H:%M")}
            for saved in run.checkpoints
        ],
        "model": _folder_size(run.path / "model"),
        "packages": run.packages,
        "problems": [*run.problems, *_damaged(figures)],
        "events": len(events),
    }  # fmt: skip


def _finite(value: Any) -> float | None:
    found = number(value)
    return found if found is not None and math.isfinite(found) else None


def _damaged(figures: Figures) -> list[str]:
    many = figures.damaged
    return [f"{many} line{'s' if many > 1 else ''} of 'metrics.jsonl' cannot be read"] if many else []


def _took(run: RunFolder) -> float | None:
    """Return the seconds from begin to end; None for a run that goes on, was begun several times, or did not say."""
    status = run.status
    try:
        began, ended = (datetime.fromisoformat(text) for text in (status["started"], status["ended"]["at"]))
    except (KeyError, TypeError, ValueError):
        return None
    return (ended - began).total_seconds() if status.get("starts") == 1 else None


def _last_smooth(figures: Figures) -> float | None:
    """Return the moving average of the loss at its end."""
    losses = column(figures["loss"])[-1_000:]
    average = smoothed(losses, max(5.0, len(losses) / 60))
    finite = average[np.isfinite(average)]
    return float(finite[-1]) if len(finite) else None


def _last(figures: Figures, name: str) -> float | None:
    values = column(figures[name])
    values = values[np.isfinite(values)]
    return float(values[-1]) if len(values) else None


def _most(figures: Figures, name: str) -> float | None:
    values = column(figures[name])
    values = values[np.isfinite(values)]
    return float(values.max()) if len(values) else None


def _total(figures: Figures, name: str) -> float:
    return float(np.nansum(column(figures[name])))


def _speed(figures: Figures) -> float | None:
    seconds = _total(figures, "step_seconds") + _total(figures, "data_seconds")
    return _total(figures, "tokens") / seconds if seconds > 0 else None


def _time(figures: Figures) -> list[dict[str, Any]]:
    """Return what the time of all steps went to: name, colour, seconds in all, mean seconds, share."""
    seconds = {name: _total(figures, name) for name in PARTS if name in figures.columns}
    total = sum(seconds.values())
    if not figures.steps or not total:
        return []
    return [
        {"name": PARTS[name][0], "color": PARTS[name][1], "seconds": taken, "mean": taken / figures.steps,
         "share": taken / total}
        for name, taken in seconds.items()
    ]  # fmt: skip


def _communication(figures: Figures) -> dict[str, Any] | None:
    """Return what several ranks sent to each other, and whom they waited for."""
    if "comm_bytes" not in figures.columns:
        return None
    step_seconds = _total(figures, "step_seconds")
    straggler, behind = column(figures["straggler"]), np.nan_to_num(column(figures["straggler_seconds"]))
    ranks = sorted({int(rank) for rank in straggler[np.isfinite(straggler)]})
    seconds = _total(figures, "comm_seconds")
    return {
        "bytes": _total(figures, "comm_bytes") / max(1, figures.steps),
        "share": seconds / step_seconds if step_seconds else None,
        "wait": _total(figures, "comm_wait_seconds") / step_seconds if step_seconds else None,
        "rate": _total(figures, "comm_bytes") / seconds if seconds else None,
        "ranks": [
            {"rank": rank, "steps": int((straggler == rank).sum()), "seconds": float(behind[straggler == rank].sum())}
            for rank in ranks
        ],
    }


def _fill(told: Told) -> dict[str, Any] | None:
    """Return how full the steps were: tokens against the positions that a batch has at most."""
    tokens, config = column(told.figures["tokens"]), told.run.config
    size, length = config.get("batch_size"), config.get("seq_length")
    if not np.isfinite(tokens).any() or not isinstance(size, int) or not isinstance(length, int):
        return None
    mean = float(np.nanmean(tokens))
    return {"mean": mean, "most": size * length, "share": mean / max(1, size * length)}


def _folder_size(folder: Path) -> int | None:
    if not folder.is_dir():
        return None
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


# ── what happened ────────────────────────────────────────────────────────────────────────────────────────────────────


def events_of(told: Told) -> list[dict[str, Any]]:
    """Return what happened to a run on its way, by step: step, kind, and what is to be said."""
    figures = told.figures
    steps = column(figures["step"])
    found: list[dict[str, Any]] = []
    bad = np.zeros(len(steps), dtype=bool)
    for name, what in (("loss", "the loss is not finite"), ("skipped", "the update was skipped")):
        mask = column(figures[name]) > 0 if name == "skipped" else ~np.isfinite(column(figures[name]))
        bad |= mask
        found += [_stretch(steps[first], steps[last], name, what) for first, last in stretches(mask)]
    known = {float(step) for step in steps[bad]}
    for line in figures.events:
        if line.get("event") == "non_finite" and float(line["step"]) in known:
            continue  # told already, as one stretch
        if line.get("event") == SAMPLE:
            continue  # told by themselves
        found.append({"step": int(line["step"]), "kind": str(line["event"]), "text": shown.event(line)})
    for step, lines in told.run.cuts:
        text = f"the record was cut back to step {step}: {lines} lines of steps behind it were made again or undone"
        found.append({"step": step, "kind": "cut", "text": text})
    for start in told.run.resumes:
        text = f"went on from step {start.step:,}" if start.step else "began anew"
        on = f" on {start.ranks} ranks" if start.ranks > 1 else ""
        found.append({"step": start.step, "kind": "started", "text": f"the run {text}{on}; before: {start.before}"})
    found.sort(key=lambda event: event["step"])
    if len(found) > _MOST_EVENTS:
        more = len(found) - _MOST_EVENTS
        found = [*found[:_MOST_EVENTS], {"step": None, "kind": "more", "text": f"and {more:,} more"}]
    return found


def samples_of(told: Told) -> list[dict[str, Any]]:
    """Return what the model wrote on its way, the newest first: step, prompt and text."""
    lines = [line for line in told.figures.events if line.get("event") == SAMPLE][-_MOST_SAMPLES:]
    return [
        {"step": int(line["step"]), "prompt": str(line.get("prompt", "")), "text": str(line.get("text", ""))}
        for line in reversed(lines)
    ]


def _stretch(first: float, last: float, kind: str, what: str) -> dict[str, Any]:
    where = f"step {int(first):,}" if first == last else f"steps {int(first):,} to {int(last):,}"
    return {"step": int(first), "kind": "not finite" if kind == "loss" else kind, "text": f"{what} in {where}"}
