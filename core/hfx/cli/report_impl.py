"""The page of `hfx report`: what each run's folder tells, put into the template; every value is escaped there."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from hfx.cache import cache_root
from hfx.cli import shown
from hfx.cli.report_charts_impl import Drawn, bokeh_script, drawn
from hfx.cli.report_data_impl import data_of
from hfx.cli.report_run_impl import Told, events_of, run_values, samples_of
from hfx.figures import read_figures
from hfx.redact import hide, redacted
from hfx.run_folder import RunFolder, number
from hfx.run_folders import differing

TITLES = {
    "loss": "Loss",
    "lr": "Learning rate",
    "grad_norm": "Norm of the gradients, before clipping",
    "tokens_per_second": "Tokens per second",
    "time": "Seconds of a step, by what they went to",
    "step_seconds": "Seconds of a step",
    "memory_bytes": "Most memory so far, GiB",
    "comm_seconds": "Seconds of a step in which something was sent",
    "comm_wait_seconds": "Seconds of a step in which training stood still for it",
}
_MOST_MARKS = 40
"""Lines of events in the chart of the loss, of one run."""


def page(paths: list[Path]) -> str:
    """Return the page about some runs.

    Raises:
        OSError: a record cannot be read.
    """
    names = _names(paths)
    told = [_told(RunFolder(path), name) for path, name in zip(paths, names, strict=True)]
    charts = drawn([Drawn(redacted(one.name), one.figures, _plan(one.run)) for one in told], TITLES)
    events = [events_of(one) for one in told]
    for at, found in enumerate(events):
        charts.mark(at, [event["step"] for event in found if event["step"] is not None][:_MOST_MARKS])
    script, elements = charts.embedded()
    config, data = _config(told), _data(told)
    # Last, when every file was looked at and is known to be sound or not.
    runs = [run_values(at, one, found) for at, (one, found) in enumerate(zip(told, events, strict=True))]
    context = {
        "title": ", ".join(names) if len(names) <= 3 else f"{len(names)} runs",
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "runs": runs,
        "config": config,
        "data": data,
        "titles": charts.titles,
        "sections": _sections(list(charts.titles)),
        "samples": [sample | {"run": at} for at, one in enumerate(told) for sample in samples_of(one)],
        "events": [event | {"run": at} for at, found in enumerate(events) for event in found],
    }
    # Scripts and charts are made here, of numbers and escaped JSON; everything else is escaped by the template.
    drawn_here = {key: Markup(element) for key, element in elements.items()}
    here = Path(__file__).parent
    environment = Environment(loader=FileSystemLoader(here), autoescape=True)
    environment.globals |= {name: getattr(shown, name) for name in ("figure", "count", "size", "duration", "option")}
    template = environment.get_template("report.html.jinja")
    return template.render(
        redacted(context),
        charts=drawn_here,
        chart_script=Markup(script),
        bokeh=Markup(bokeh_script() if script else ""),
        style=Markup((here / "report.css").read_text(encoding="utf-8")),
        script=Markup((here / "report.js").read_text(encoding="utf-8")),
    )


def _names(paths: list[Path]) -> list[str]:
    """Return names that tell runs apart: of folders, with those they lie in where two are alike."""
    for parts in range(1, max(len(path.resolve().parts) for path in paths) + 1):
        names = ["/".join(path.resolve().parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _told(run: RunFolder, name: str) -> Told:
    standing = run.standing()
    _hide_secrets(run.config)
    return Told(run, name, read_figures(run.path), standing)


def _hide_secrets(config: dict[str, Any]) -> None:
    """Have the values behind `env:NAME` replaced on the page, wherever they stand."""
    import os

    for value in config.values():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and text.startswith("env:") and text[4:] in os.environ:
                hide(os.environ[text[4:]], text)


def _plan(run: RunFolder) -> dict[str, Any]:
    return {name: value for name, value in run.plan.items() if number(value) is not None}


# ── config and data ──────────────────────────────────────────────────────────────────────────────────────────────────


def _config(told: list[Told]) -> list[dict[str, Any]]:
    """Return a row for each value: path, the values of all runs, their origins, whether they differ."""
    differ = differing([one.run for one in told])
    paths = dict.fromkeys(path for one in told for path in one.run.config)
    rows = []
    for path in paths:
        values = [shown.option(one.run.config.get(path)) for one in told]
        if path == "plugins":
            values = [", ".join(one.run.config.get(path, [])) for one in told]
        origins = [_origin(one.run, path) for one in told]
        rows.append({
            "path": path,
            "cells": [{"value": value, "origin": origin} for value, origin in zip(values, origins, strict=True)],
            "differs": path in differ or len(set(values)) > 1,
            "given": any(origin not in ("default", "") for origin in origins),
        })  # fmt: skip
    return rows


def _origin(run: RunFolder, path: str) -> str:
    """Return where a value came from; nothing where the run did not say."""
    if "origins" not in run.status or path not in run.config or path == "plugins":
        return ""
    return run.origins.get(path, "default")


def _data(told: list[Told]) -> list[dict[str, Any]]:
    """Return what is said of the data, once for all runs that had the same."""
    found: list[dict[str, Any]] = []
    for at, one in enumerate(told):
        report = one.run.data_report
        if not report:
            continue
        same = next((data for data in found if data["report"] == report), None)
        if same:
            same["runs"].append(at)
        else:
            found.append({"report": report, "runs": [at], **data_of(report, cache_root())})
    return found


def _sections(keys: list[str]) -> dict[str, list[str]]:
    """Return the charts by the section of the page they stand in."""
    of = {
        "training": [key for key in keys if key in ("loss", "lr", "grad_norm")],
        "evaluation": [key for key in keys if key.startswith("eval_")],
        "speed": [key for key in keys if key in ("tokens_per_second", "time", "step_seconds", "memory_bytes")],
        "communication": [key for key in keys if key.startswith("comm_")],
    }
    of["other"] = [key for key in keys if not any(key in found for found in of.values())]
    return of
