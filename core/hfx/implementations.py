"""Which hooks a plugin's class implements, and whether it may implement them so."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from hfx import hookspecs
from hfx.errors import PluginError, nearest
from hfx.plugin import Plugin

HOOKS: tuple[str, ...] = tuple(name for name in vars(hookspecs) if name.startswith("hfx_"))
"""Every hook, in the order of a run."""
ROLES: dict[str, str] = {hook.removeprefix("hfx_"): hook for hook in HOOKS if hook not in hookspecs.LISTENERS}
"""The hook of every role."""


@dataclass(frozen=True)
class Implementation:
    """A class's method for one hook."""

    method: str
    wrapper: bool
    options: dict[str, Any]
    function: Any


@lru_cache(maxsize=512)
def implementations(plugin_class: type[Plugin]) -> dict[str, Implementation]:
    """Return what the class implements, by hook."""
    found: dict[str, Implementation] = {}
    for name in dir(plugin_class):
        function = _function(plugin_class, name)
        options = getattr(function, "hfx_impl", None)
        if isinstance(options, dict):
            hook = options.get("specname") or name
            found[hook] = Implementation(name, bool(options.get("wrapper")), options, function)
    return found


def _function(plugin_class: type[Plugin], name: str) -> Any:
    found = inspect.getattr_static(plugin_class, name, None)
    return found.__func__ if isinstance(found, staticmethod | classmethod) else found


def provided(plugin_class: type[Plugin]) -> list[str]:
    """Return the roles that the class provides."""
    found = implementations(plugin_class)
    return [role for role, hook in ROLES.items() if hook in found and not found[hook].wrapper]


def check_class(who: str, plugin_class: type[Plugin]) -> None:
    """Refuse a class whose hooks cannot be called.

    Raises:
        PluginError: names the plugin, the method and what it has to be.
    """
    found = implementations(plugin_class)
    marked = {implementation.method for implementation in found.values()}
    for name in dir(plugin_class):
        if name.startswith("hfx_") and name not in marked and callable(_function(plugin_class, name)):
            raise PluginError(f"plugin {who}: '{name}' is not marked as a hook; put `@hookimpl` above it")
    if not found:
        raise PluginError(f"plugin {who} implements no hook; `hfx.hookspecs` lists them")
    for hook, implementation in found.items():
        _check_hook(who, hook, implementation)


def _check_hook(who: str, hook: str, implementation: Implementation) -> None:
    at = f"plugin {who}: '{implementation.method}'"
    if hook not in HOOKS:
        hint = nearest(hook, HOOKS) or " `hfx.hookspecs` lists them"
        raise PluginError(f"{at} is no hook of hfx;{hint}")
    if not implementation.method.startswith("hfx_"):
        raise PluginError(f"{at} has to be named after its hook; rename it to '{hook}'")
    options = implementation.options
    if options.get("hookwrapper"):
        raise PluginError(f"{at} is an old-style wrapper; use `@hookimpl(wrapper=True)`")
    if options.get("tryfirst") or options.get("trylast"):
        raise PluginError(
            f"{at} asks for a place in the order; plugins run as they are named, report a wrong order in 'hfx_check'"
        )
    if implementation.wrapper and hook in hookspecs.LISTENERS:
        raise PluginError(f"{at} wraps a listener; only roles can be wrapped")
    yields = inspect.isgeneratorfunction(implementation.function)
    if yields != implementation.wrapper and hook not in hookspecs.LISTENERS:
        raise PluginError(
            f"{at} yields without being a wrapper; use `@hookimpl(wrapper=True)`, or `return`"
            if yields
            else f"{at} is a wrapper that does not yield; write `value = yield` and return what replaces it"
        )
    _check_arguments(at, hook, implementation)


def _check_arguments(at: str, hook: str, implementation: Implementation) -> None:
    allowed = list(inspect.signature(getattr(hookspecs, hook)).parameters)
    for name, parameter in inspect.signature(implementation.function).parameters.items():
        if name in ("self", "cls"):
            continue
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD or parameter.default is not parameter.empty:
            raise PluginError(f"{at}: the argument '{name}' has to be plain, without a default; remove the default")
        if name not in allowed:
            hint = nearest(name, allowed) or f" it may take {', '.join(allowed)}"
            raise PluginError(f"{at} takes no argument '{name}';{hint}")
