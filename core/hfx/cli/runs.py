"""`hfx runs`: the runs in a folder as a table, and what differs between their configs."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hfx.cli.columns import columns
from hfx.cli.command import Command, traceback_option
from hfx.cli.shown import count, figure, option, to_stdout

if TYPE_CHECKING:
    from hfx.run_folder import RunFolder

EPILOG = """
Examples:
  hfx runs
  hfx runs experiments --sort eval
  hfx runs --json | jq '.[] | select(.status == "failed")'
"""
ORDER = ("begun", "name", "status", "step", "loss", "eval", "speed")
_STATES = ("running", "failed", "killed", "stopped", "finished")
_LAST = math.inf
_LONGEST = 40
"""Characters of a value in the table of differences."""


@click.command("runs", cls=Command, epilog=EPILOG)
@click.argument("folder", type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--sort", type=click.Choice(ORDER), default="begun", show_default=True, help="What to order them by.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures, and the values that differ, as JSON.")
@traceback_option
def command(folder: Path, sort: str, as_json: bool) -> None:
    """List the runs in FOLDER (by default 'runs') and below it, and the values that differ between their configs.

    'running': a live process holds the run. 'stopped': it was asked to end, and saved. 'failed': it said why. 'killed':
    it ended without a word. The newest comes first, the lowest loss, the highest speed.
    """
    from hfx.errors import ConfigError
    from hfx.redact import redacted
    from hfx.run_folders import differing, runs_in

    if not folder.is_dir():
        raise ConfigError(f"there is no folder '{folder}'; name the one that holds your runs: 'hfx runs FOLDER'")
    rows = sorted((listed(run, folder) for run in runs_in(folder)), key=lambda row: row.place(sort))
    differences = redacted(differing([row.run for row in rows]))
    if as_json:
        found = [
            row.values | {"differs": {path: at[i] for path, at in differences.items()}} for i, row in enumerate(rows)
        ]
        click.echo(json.dumps(redacted(found), indent=1, default=str))
        return
    if not rows:
        click.echo(f"no run in '{folder}'; 'hfx train' makes one", err=True)
        return
    for line in [*_table(rows), *_differences(rows, differences)]:
        to_stdout(redacted(line))


@dataclass(frozen=True)
class Listed:
    """A run of the list, and what is told of it as JSON values."""

    run: RunFolder
    values: dict[str, Any]
    raw: dict[str, float | None]
    """Figures that may not be finite, which JSON has no word for."""

    def place(self, sort: str) -> tuple[Any, ...]:
        """Return by what the run is ordered."""
        name, begun = self.values["name"], self.run.begun
        key: Any = {
            "name": 0,
            "begun": -begun.timestamp() if begun else _LAST,
            "status": _STATES.index(self.values["status"]) if self.values["status"] in _STATES else -1,
            "step": -self.values["step"],
            "loss": _or_last(self.raw["loss"]),
            "eval": _or_last(self.raw["best_eval_loss"]),
            "speed": _or_last(self.values["tokens_per_second"], -1),
        }[sort]
        return key, name


def _or_last(value: float | None, sign: int = 1) -> float:
    return _LAST if value is None or math.isnan(value) else sign * value


def listed(run: RunFolder, folder: Path) -> Listed:
    """Return what is told of a run, damaged or not."""
    standing = run.standing()
    raw = {"loss": run.loss, "eval_loss": run.last_eval, "best_eval_loss": run.best_eval}
    begun, total, _ = run.begun, run.total_steps, run.config
    values = {
        "name": str(run.path.relative_to(folder)) if run.path != folder else run.path.resolve().name,
        "path": str(run.path),
        "status": standing.how,
        "why": standing.why,
        "step": max(run.step, standing.step or 0),
        "total_steps": total,
        **{name: value if value is None or math.isfinite(value) else None for name, value in raw.items()},
        "finite": all(value is None or math.isfinite(value) for value in raw.values()),
        "tokens_per_second": run.tokens_per_second,
        "begun": begun.isoformat(timespec="seconds") if begun else None,
        "problems": list(run.problems),
    }
    return Listed(run, values, raw)


def _table(rows: list[Listed]) -> list[str]:
    header = ["name", "status", "step", "loss", "eval", "best eval", "tokens/s", "begun"]
    cells = [_cells(row) for row in rows]
    remarks = [_remark(row) for row in rows]
    if any(remarks):
        header.append("remark")
        cells = [[*line, remark] for line, remark in zip(cells, remarks, strict=True)]
    return columns(cells, header).splitlines()


def _cells(row: Listed) -> list[str]:
    values, raw = row.values, row.raw
    of = f"/{values['total_steps']:,}" if values["total_steps"] else ""
    begun = datetime.fromisoformat(values["begun"]).astimezone().strftime("%Y-%m-%d %H:%M") if values["begun"] else "-"
    return [
        values["name"],
        values["status"],
        f"{values['step']:,}{of}",
        figure(raw["loss"]),
        figure(raw["eval_loss"]),
        figure(raw["best_eval_loss"]),
        count(values["tokens_per_second"]),
        begun,
    ]


def _remark(row: Listed) -> str:
    """Return what is to be said of a run beside its figures: how it ended, and what of it is damaged."""
    why = row.values["why"] if row.values["status"] != "killed" else None
    return "; ".join(" ".join(text.split()) for text in [*([why] if why else []), *row.values["problems"]])


def _differences(rows: list[Listed], differences: dict[str, list[Any]]) -> list[str]:
    """Return a table of the values that differ; it lies on its side where there are more of them than runs."""
    if not differences:
        return []
    names = [row.values["name"] for row in rows]
    shown = {path: [_short(option(value)) for value in values] for path, values in differences.items()}
    # The header is a row: its names are typed as they are, and capitals would change them.
    if len(shown) > len(rows):
        table = [["DIFFERS", *names], *([path, *values] for path, values in shown.items())]
    else:
        table = [["DIFFERS", *shown], *map(list, zip(names, *shown.values(), strict=True))]
    return ["", *columns(table).splitlines()]


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _LONGEST else f"{flat[: _LONGEST - 1]}…"
