"""Whose fault an exception is: the plugin whose code raised it."""

from __future__ import annotations

from collections.abc import Iterable
from types import FrameType
from typing import TYPE_CHECKING

from hfx.collective import of_ranks
from hfx.errors import HfxError
from hfx.plugin import Plugin

if TYPE_CHECKING:
    from hfx.manager import ActivePlugin


def passes(error: BaseException) -> bool:
    """Say whether the core names an error itself: its own, of the system, of torch's devices and ranks."""
    if isinstance(error, HfxError | OSError) or ran_out(error) or of_ranks(error):
        return True
    return any(kind.__module__.partition(".")[0] == "torch" for kind in type(error).__mro__)


def ran_out(error: BaseException) -> bool:
    """Say whether an error is a device's, or this process's, want of memory."""
    if isinstance(error, MemoryError) or "OutOfMemoryError" in {kind.__name__ for kind in type(error).__mro__}:
        return True
    # On a CPU torch raises what it raises for everything else.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def culprit(error: BaseException, active: Iterable[ActivePlugin]) -> ActivePlugin | None:
    """Return the plugin of the innermost frame that runs its method, or code of its module."""
    plugins = list(active)
    found: ActivePlugin | None = None
    traceback = error.__traceback__
    while traceback is not None:
        found = _owner(traceback.tb_frame, plugins) or found
        traceback = traceback.tb_next
    return found


def _owner(frame: FrameType, active: list[ActivePlugin]) -> ActivePlugin | None:
    this = frame.f_locals.get("self")
    for plugin in active:
        if this is plugin.plugin:
            return plugin
    module = str(frame.f_globals.get("__name__", ""))
    owners = [p for p in active if p.registered and _belongs(module, type(p.plugin).__module__)]
    return max(owners, key=lambda plugin: len(type(plugin.plugin).__module__), default=None)


def _belongs(module: str, home: str) -> bool:
    # The siblings `lion_impl`, `files_open_impl` hold the parts of a plugin that import torch and its like.
    return module == home or (module.startswith(f"{home}_") and module.endswith("_impl"))


def core_failed(error: BaseException) -> bool:
    """Say whether hfx's own code was the last to run before an error: then no plugin is to blame.

    It matters where a hook calls the core back, as `hfx_launch` and `hfx_run` do.
    """
    last = ""
    traceback = error.__traceback__
    while traceback is not None:
        module = str(traceback.tb_frame.f_globals.get("__name__", ""))
        plugin = isinstance(traceback.tb_frame.f_locals.get("self"), Plugin)
        if plugin or module.partition(".")[0] in ("hfx", "hfx_plugins"):
            last = "plugin" if plugin else module
        traceback = traceback.tb_next
    return last.partition(".")[0] == "hfx"
