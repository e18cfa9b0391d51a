"""Figures of runs as text, alike in every command that shows them."""

from __future__ import annotations

import math
from typing import Any

import click

from hfx.cli.terminal import plain


def figure(value: Any, form: str = ".4g") -> str:
    """Return a number as text; `-` where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-"
    return format(value, form) if math.isfinite(value) else str(value)


def count(value: Any) -> str:
    """Return a number without its fraction, with its thousands apart."""
    return figure(value, ",.0f")


def size(value: float | None) -> str:
    """Return bytes in the unit that suits them."""
    if value is None or not math.isfinite(value):
        return "-"
    for unit, bytes_each in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= bytes_each:
            return f"{value / bytes_each:,.{2 if unit == 'GiB' else 0}f} {unit}"
    return f"{value:.0f} B"


def duration(seconds: float | None) -> str:
    """Return seconds as text: `48 s`, `12 min 05 s`, `3 h 20 min`, `2 d 4 h`."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86_400:
        return f"{whole // 3_600} h {whole % 3_600 // 60:02} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3_600} h"


def option(value: Any) -> str:
    """Return the value of an option as text: what YAML would have on one line."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def event(line: dict[str, Any]) -> str:
    """Return what an event of `metrics.jsonl` says."""
    kind = line.get("event")
    if kind == "sample":
        return f"{line.get('prompt')!r} -> {line.get('text')!r}"
    if kind == "rollback":
        return (
            f"went back from step {line.get('from')} to {line.get('to')}, and on behind {line.get('skipped_batches')} "
            f"batches: {line.get('reason')}"
        )
    if kind == "micro_batch_size":
        return f"micro-batches of {line.get('to')} sequences in place of {line.get('from')}: {line.get('reason')}"
    if kind == "non_finite":
        return f"loss or gradient not finite ({line.get('in_a_row')} in a row)"
    if kind == "spike":
        reached, usual = line.get("reached"), line.get("usual")
        return f"the loss spiked to {figure(reached)}, usual is {figure(usual)} (action: {line.get('action')})"
    return ", ".join(f"{name} {value}" for name, value in line.items() if name not in ("step", "event"))


def to_stdout(line: str) -> None:
    """Print a line; what of a text the terminal's encoding lacks, or would steer the terminal, is escaped."""
    click.echo(plain(line))
