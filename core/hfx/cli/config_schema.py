"""`hfx config schema`: the JSON schema of a config file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from hfx.cli.command import traceback_option
from hfx.cli.run_command import RunCommand, arguments
from hfx.config import RunConfig

if TYPE_CHECKING:
    from hfx.plugin import Plugin

EPILOG = """
Example:
  hfx config schema --all > hfx.schema.json
  # first line of config.yaml:  # yaml-language-server: $schema=hfx.schema.json
"""


@click.command("schema", cls=RunCommand, epilog=EPILOG)
@click.option("--all", "everything", is_flag=True, help="Describe every installed plugin; imports them all.")
@traceback_option
@click.pass_context
def command(ctx: click.Context, /, everything: bool, **_: Any) -> None:
    """Print the JSON schema of the run's fields and of the active plugins' options."""
    kinds = _installed() if everything else _active(ctx)
    click.echo(json.dumps(schema(kinds, closed=everything), indent=2))


def _active(ctx: click.Context) -> dict[str, type[Plugin]]:
    return {active.name: type(active.plugin) for active in arguments(ctx).resolve().plugins}


def _installed() -> dict[str, type[Plugin]]:
    from hfx.discovery import found

    return {ref.name: ref.load() for ref in found()}


def schema(kinds: dict[str, type[Plugin]], closed: bool) -> dict[str, Any]:
    """Return a JSON schema of a config file with these plugins, by name or `NAME@DIST`; `closed`: with no others."""
    definitions: dict[str, Any] = {}
    run = _lifted(RunConfig.model_json_schema(), definitions)
    patterns: dict[str, Any] = {"^no:": {"type": "null"}}
    for name, kind in kinds.items():
        options = _lifted(kind.model_json_schema(), definitions)
        options["type"] = ["object", "null"]  # `lion:` alone activates it with its defaults
        patterns[f"^{name}(@.+)?$"] = options
    run["properties"]["plugins"] = {
        "description": "Active plugins in order, each with its options.",
        "type": "object",
        "patternProperties": patterns,
        "additionalProperties": not closed,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **run,
        "title": "hfx config",
        **({"$defs": definitions} if definitions else {}),
    }


def _lifted(part: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Move the definitions of one model to the top of the schema, where its references point."""
    for name, definition in part.pop("$defs", {}).items():
        if definitions.setdefault(name, definition) != definition:
            raise AssertionError(f"two different models are called '{name}'")
    return part
