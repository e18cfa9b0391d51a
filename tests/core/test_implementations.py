from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hfx.errors import PluginError
from hfx.layers import DEFAULT
from hfx.manager import ActivePlugin, Manager
from hfx.plugin import Plugin, hookimpl
from hfx.protocols import RunResult

RUN: Any = object()
DONE = RunResult(Path("runs/x"), {}, 3)


def manager(**plugins: Plugin) -> Manager:
    return Manager([ActivePlugin(name, plugin, "hfx-toys", "1.0", DEFAULT) for name, plugin in plugins.items()])


def refused(function: Any, name: str | None = None, **options: Any) -> str:
    marked = hookimpl(**options)(function) if options else hookimpl(function)
    toy = type("Toy", (Plugin,), {name or function.__name__: marked})
    with pytest.raises(PluginError, match="plugin 'toy'") as caught:
        manager(toy=toy())
    return str(caught.value)


def test_hooks_that_cannot_be_called_are_refused() -> None:
    def hfx_optimzer(self: Any) -> None: ...
    def hfx_optimizer(self: Any, param: Any) -> None: ...
    def hfx_model(self: Any, run: Any = None) -> None: ...
    def hfx_task(self: Any, *args: Any) -> None: ...
    def hfx_run(self: Any) -> None: ...
    def hfx_source(self: Any) -> Iterator[None]:
        yield

    def hfx_saved(self: Any) -> Iterator[None]:
        yield

    assert "did you mean 'hfx_optimizer'" in refused(hfx_optimzer)
    assert "did you mean 'params'" in refused(hfx_optimizer)
    assert "without a default" in refused(hfx_model)
    assert "'args' has to be plain" in refused(hfx_task)
    assert "does not yield" in refused(hfx_run, wrapper=True)
    assert "yields without being a wrapper" in refused(hfx_source)
    assert "wraps a listener" in refused(hfx_saved, wrapper=True)
    assert "old-style wrapper" in refused(hfx_source, hookwrapper=True)
    assert "a place in the order" in refused(hfx_run, tryfirst=True)
    assert "rename it to 'hfx_run'" in refused(hfx_run, name="train", specname="hfx_run")


def test_a_hook_without_its_mark_is_refused() -> None:
    class Forgot(Plugin):
        """Forgot."""

        def hfx_run(self) -> None: ...

    with pytest.raises(PluginError, match="'hfx_run' is not marked as a hook; put `@hookimpl`"):
        manager(forgot=Forgot())


def test_a_plugin_without_hooks_is_refused() -> None:
    with pytest.raises(PluginError, match=r"'idle' .* implements no hook"):
        manager(idle=Plugin())
