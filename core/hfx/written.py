"""A resolved run written out: as rows with the origin of every value, and as YAML that is taken back unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import yaml

from hfx.defaults import DEFAULT_LISTENERS
from hfx.discovery import PluginRef, canonical, found
from hfx.layers import DEFAULT, Origin

if TYPE_CHECKING:
    from hfx.manager import ActivePlugin
    from hfx.resolve import Resolved


def describe(resolved: Resolved) -> list[tuple[str, Any, Origin]]:
    """Return every value of the run by path (`run.seed`, `lion.lr`), with its origin."""
    dumped = resolved.config.model_dump(mode="json")
    rows = [(f"run.{key}", value, resolved.origins[f"run.{key}"]) for key, value in dumped.items()]
    for active in resolved.plugins:
        options = active.plugin.options().items()
        rows += [(f"{active.name}.{key}", value, resolved.origins[f"{active.name}.{key}"]) for key, value in options]
    return rows


def to_yaml(resolved: Resolved) -> str:
    """Return the run as YAML that `hfx train` takes back unchanged; a plugin that is no entry point is marked."""
    tree: dict[str, Any] = {
        key: value
        for key, value in resolved.config.model_dump(mode="json").items()
        if value is not None or resolved.origins[f"run.{key}"] != DEFAULT
    }
    names = {active.name for active in resolved.plugins}
    refs = found()
    plugins: dict[str, Any] = {_key(active, refs): active.plugin.options() for active in resolved.plugins}
    plugins |= {f"no:{name}": None for name in DEFAULT_LISTENERS if name not in names}
    tree["plugins"] = plugins
    marks = "".join(
        f"# '{active.name}' is unregistered: the class {type(active.plugin).__qualname__}, given from Python\n"
        for active in resolved.plugins
        if not active.registered
    )
    return marks + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _key(active: ActivePlugin, refs: Sequence[PluginRef]) -> str:
    same = [ref for ref in refs if canonical(ref.name) == active.name]
    return f"{active.name}@{active.distribution}" if active.registered and len(same) > 1 else active.name
