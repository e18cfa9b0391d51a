from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hfx.errors import DataError, PluginError
from hfx.layers import DEFAULT
from hfx.manager import ActivePlugin, Manager
from hfx.plugin import Plugin, hookimpl
from hfx.protocols import Problem, RunResult

RUN: Any = SimpleNamespace(checking=False)
DONE = RunResult(Path("runs/x"), {}, 3)


def manager(**plugins: Plugin) -> Manager:
    return Manager([ActivePlugin(name, plugin, "hfx-toys", "1.0", DEFAULT) for name, plugin in plugins.items()])


class Loop(Plugin):
    """Trains."""

    result: Any = DONE

    @hookimpl
    def hfx_run(self, run: Any) -> Any:
        return self.result


class Raises(Plugin):
    """Raises what it is told to."""

    error: Any

    @hookimpl
    def hfx_run(self) -> Any:
        raise self.error


def test_an_exception_of_a_plugin_names_it_and_keeps_its_cause() -> None:
    cause = TypeError("no\nsuch thing")
    with pytest.raises(
        PluginError, match=r"'bad' \(hfx-toys 1\.0\) raised TypeError in hfx_run: no such thing"
    ) as caught:
        manager(bad=Raises(error=cause)).run(RUN)
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize("error", [DataError("x"), OSError("x"), MemoryError(), KeyboardInterrupt()])
def test_failures_of_the_world_and_named_ones_pass_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        manager(bad=Raises(error=error)).run(RUN)
    assert caught.value is error


def test_a_device_out_of_memory_passes_through() -> None:
    import torch

    with pytest.raises(torch.OutOfMemoryError):
        manager(bad=Raises(error=torch.OutOfMemoryError("full"))).run(RUN)


def test_the_innermost_plugin_is_to_blame() -> None:
    class Inner(Plugin):
        """Raises in an ordinary method."""

        def work(self) -> None:
            raise ValueError("inner")

        @hookimpl
        def hfx_saved(self) -> None:
            self.work()

    class Outer(Plugin):
        """Calls another."""

        inner: Any

        @hookimpl
        def hfx_run(self) -> Any:
            self.inner.work()

    inner = Inner()
    with pytest.raises(PluginError, match=r"'inner' .* raised ValueError in hfx_run"):
        manager(outer=Outer(inner=inner), inner=inner).run(RUN)


def test_a_wrapper_that_raises_is_to_blame_and_not_what_it_wraps() -> None:
    class Breaks(Plugin):
        """Breaks after its yield."""

        @hookimpl(wrapper=True)
        def hfx_run(self) -> Iterator[Any]:
            yield
            raise ValueError("after")

    with pytest.raises(PluginError, match=r"'breaks' .* raised ValueError"):
        manager(loop=Loop(), breaks=Breaks()).run(RUN)


def test_a_check_that_raises_while_it_is_read_is_named() -> None:
    class Late(Plugin):
        """Raises late."""

        @hookimpl
        def hfx_check(self) -> Iterator[Problem]:
            yield Problem("x")
            raise KeyError("late")

    with pytest.raises(PluginError, match=r"'late' .* raised KeyError in hfx_check"):
        manager(late=Late()).check(RUN)
