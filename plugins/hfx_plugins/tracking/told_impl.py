"""What a tracker is told: a run's figures, as `metrics.jsonl` has them, and its config, without secrets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from hfx import redacted

if TYPE_CHECKING:
    from pathlib import Path

    from hfx import Run


class Figures(NamedTuple):
    """What a tracker is told of one step: numbers by name, of training or of an evaluation."""

    step: int
    values: dict[str, float]
    evaluation: bool


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures that are numbers, the step itself left out, under their names in `metrics.jsonl`."""
    return {
        name: int(value) if isinstance(value, bool) else value
        for name, value in metrics.items()
        if isinstance(value, int | float) and name != "step"
    }


def recorded(metrics: Path, before: int) -> Iterator[Figures]:
    """Yield what `metrics.jsonl` has of the steps before one."""
    if before <= 1 or not metrics.is_file():
        return
    with metrics.open(encoding="utf-8") as file:
        for line in file:
            values = json.loads(line)
            step, evaluation = values["step"], "loss" not in values
            if step < before and "event" not in values:
                kept = {name: value for name, value in values.items() if not evaluation or name.startswith("eval_")}
                yield Figures(step, numbers(kept), evaluation)


def config_of(run: Run) -> dict[str, Any]:
    """Return what a run is, as JSON values: its fields, and its plugins with versions and options.

    User names, passwords and query strings of addresses are left out, for a tracker may be read by others.
    """
    plugins = {
        active.name: {"package": f"{active.distribution} {active.version}", **active.plugin.options()}
        for active in run.active
    }
    shown: dict[str, Any] = _without_secrets({"run": run.config.model_dump(mode="json"), "plugins": plugins})
    return redacted(shown)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_secrets(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_secrets(inner) for inner in value]
    return public_address(value) if isinstance(value, str) else value


def public_address(text: str) -> str:
    """Return an address without the user's name, password and query; any other text as it is."""
    scheme, mark, rest = text.partition("://")
    if not mark:
        return text
    place = rest.partition("?")[0].partition("#")[0]
    host, slash, path = place.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Return a config as one level of dotted names: `plugins.adamw.lr`; what is None or empty is left out."""
    found: dict[str, str | int | float | bool] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            found |= {f"{prefix}{name}": ", ".join(map(str, value))} if value else {}
        elif value is not None:
            found[f"{prefix}{name}"] = value
    return found


def name_of(run: Run, given: str | None) -> str:
    """Return the name of a run: the one given, or that of its folder."""
    return given or run.output.absolute().name


def folder_of(run: Run, given: Path | None, default: str) -> Path:
    """Return where a tracker writes, made: the folder given, or one in the run's output."""
    folder = (given or run.output / default).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
