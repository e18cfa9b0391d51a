"""What `hfx train --dry-run` prints: every value with its origin, and who provides each role and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfx.cli.columns import columns
from hfx.cli.fields import as_typed

if TYPE_CHECKING:
    from hfx.resolve import Resolved


def report(resolved: Resolved) -> str:
    """Return the resolved config and the roles as two tables, and what the resolution has to say."""
    parts = [origins(resolved), roles(resolved)]
    listeners = _others(resolved)
    if listeners:
        parts.append(listeners)
    parts += [f"note: {note}" for note in resolved.notes]
    return "\n\n".join(parts)


def refuse_problems(resolved: Resolved) -> None:
    """Say what the plugins' checks find, as the run would.

    Raises:
        IncompatibleError: a problem that ends the run.
    """
    import click

    from hfx.api import refuse

    for message in refuse(resolved):
        click.echo(f"hfx: warning: {message}", err=True)


def origins(resolved: Resolved) -> str:
    """Return a table of all values and where each comes from."""
    from hfx.resolve import describe

    rows = [(path, as_typed(value), str(origin)) for path, value, origin in describe(resolved)]
    return columns(rows, ("option", "value", "from"))


def roles(resolved: Resolved) -> str:
    """Return a table of the roles: who provides each, from which package, and why."""
    packages = {active.name: f"{active.distribution} {active.version}".strip() for active in resolved.plugins}
    rows = [(role, choice.plugin, packages[choice.plugin], choice.why) for role, choice in resolved.roles.items()]
    return columns(rows, ("role", "plugin", "package", "why"))


def _others(resolved: Resolved) -> str:
    providers = {choice.plugin for choice in resolved.roles.values()}
    rows = [
        (active.name, f"{active.distribution} {active.version}".strip(), str(active.origin))
        for active in resolved.plugins
        if active.name not in providers
    ]
    return columns(rows, ("also active", "package", "why")) if rows else ""
