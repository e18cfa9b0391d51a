"""The parameters of commands about a run: CONFIG, `--plugin`, a flag per field, and the options of plugins."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from rich_click.rich_parameter import RichArgument, RichOption

from hfx.cli import suggest
from hfx.cli.fields import choices, description, field_default, field_type
from hfx.config import RunConfig
from hfx.errors import ConfigError

INPUT = "Config and plugins"


def config_argument() -> click.Parameter:
    """Return the argument CONFIG."""
    return RichArgument(
        ["config"],
        required=False,
        type=click.Path(path_type=Path),
        callback=_run_file,
        help="A YAML file, or a run's folder; flags override its values.",
        panel=INPUT,
    )


def _run_file(_: click.Context, __: click.Parameter, config: Path | None) -> Path | None:
    """Return a run's `run.yaml` for its folder, anything else as it is."""
    if config is None or not config.is_dir():
        return config
    if not (config / "run.yaml").is_file():
        raise ConfigError(f"'{config}' is a folder that holds no run; give a YAML file or a run's folder")
    return config / "run.yaml"


def plugin_option() -> click.Parameter:
    """Return the option `--plugin`."""
    return RichOption(
        ["--plugin"],
        multiple=True,
        metavar="NAME|NAME@DIST|no:NAME",
        help="Activate a plugin, or drop one with 'no:'. May be given more than once.",
        panel=INPUT,
        shell_complete=suggest.complete_plugins,
    )


def field_option(name: str) -> click.Parameter:
    """Return the flag of a field of the run."""
    info = RunConfig.model_fields[name]
    default = "" if info.default is None else f" [default: {field_default(info)}]"
    return RichOption(
        [f"--{name.replace('_', '-')}", name],
        metavar=field_type(info),
        help=description(info) + default,
        panel="The run",
        shell_complete=suggest.complete_words(list(choices(info.annotation))),
    )


def as_flag(plugin: str, option: str) -> str:
    """Return the word that gives a plugin's option: `--lion.weight-decay`."""
    return f"--{plugin}.{option}".replace("_", "-")


def dotted(flag: str, index: int, take: Callable[[Iterable[tuple[str, str]]], None]) -> click.Parameter:
    """Return an option for a dotted word; its values are handed to `take` with the option's name."""
    plugin, _, option = flag.removeprefix("--").replace("-", "_").partition(".")

    def collect(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> None:
        take((f"{plugin}.{option}", value) for value in values)

    return RichOption(
        [flag, f"plugin_option_{index}"],
        multiple=True,
        hidden=True,
        expose_value=False,
        callback=collect,
        shell_complete=suggest.complete_option(plugin, option),
    )


def plugin_options(name: str, kind: type[Any] | None, panel: str) -> list[click.Parameter]:
    """Return the options of a plugin's class as they are typed, for help and completion."""
    if kind is None:
        return []
    return [
        RichOption(
            [as_flag(name, option), f"{name}__{option}"],
            metavar=field_type(info),
            help=f"{description(info)} [default: {field_default(info)}]",
            panel=panel,
            multiple=True,
        )
        for option, info in kind.model_fields.items()
    ]
