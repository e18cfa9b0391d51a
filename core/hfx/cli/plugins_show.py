"""`hfx plugins show NAME`: import one plugin and tell its options and hooks."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import click

from hfx.cli import suggest
from hfx.cli.columns import columns
from hfx.cli.command import Command, traceback_option
from hfx.cli.fields import description, field_default, field_type

if TYPE_CHECKING:
    from hfx.discovery import PluginRef
    from hfx.plugin import Plugin

EPILOG = """
Example:
  hfx plugins show lion
"""


@click.command("show", cls=Command, epilog=EPILOG)
@click.argument("name", shell_complete=suggest.complete_plugins)
@traceback_option
def command(name: str) -> None:
    """Show the options, the hooks and the file of one plugin: NAME, or NAME@DIST."""
    from hfx.cli.choose import chosen

    ref = chosen(name)
    click.echo(text(ref, ref.load()))


def text(ref: PluginRef, kind: type[Plugin]) -> str:
    """Return what there is to know about a plugin before using it."""
    facts = [
        ("package", f"{ref.distribution} {ref.version}"),
        ("class", ref.value),
        ("file", inspect.getsourcefile(kind) or "?"),
        *(("hook", hook) for hook in hooks(kind)),
        *([("unverified", kind.unverified)] if kind.unverified else []),
    ]
    parts = [f"{ref.name}: {inspect.getdoc(kind) or ''}", columns(facts)]
    rows = [
        (f"--{ref.name}.{option}".replace("_", "-"), field_type(info), field_default(info), description(info))
        for option, info in kind.model_fields.items()
    ]
    parts.append(columns(rows, ("option", "type", "default", "help")) if rows else "It has no options.")
    return "\n\n".join(parts)


def hooks(kind: type[Plugin]) -> list[str]:
    """Return the hooks a class implements, wrappers marked."""
    marked = {
        name: getattr(member, "hfx_impl", None)
        for name, member in inspect.getmembers(kind, inspect.isfunction)
        if name.startswith("hfx_")
    }
    return [f"{name} (wrapper)" if options["wrapper"] else name for name, options in marked.items() if options]
