"""Short words for resolving a run in a test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hfx.policy import Policy
from hfx.resolve import Resolved, resolve

FREE = Policy()
Write = Callable[[str], Path]
Rules = Callable[[str], Policy]


def go(*plugins: str, options: Sequence[tuple[str, str]] = (), policy: Policy = FREE, **given: Any) -> Resolved:
    """Resolve a run on some data."""
    fields = {"data": "corpus.txt"} | given.pop("fields", {})
    return resolve(plugin_args=plugins, plugin_options=options, policy=policy, fields=fields, **given)


def names(resolved: Resolved) -> list[str]:
    """Return the names of the active plugins."""
    return [active.name for active in resolved.plugins]


def option(resolved: Resolved, name: str, key: str) -> Any:
    """Return an option of an active plugin."""
    return getattr(next(active.plugin for active in resolved.plugins if active.name == name), key)


def distribution(resolved: Resolved, name: str) -> str:
    """Return who offers an active plugin."""
    return next(active.distribution for active in resolved.plugins if active.name == name)
