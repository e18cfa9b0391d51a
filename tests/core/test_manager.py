from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hfx.errors import IncompatibleError, PluginError
from hfx.hookspecs import LISTENERS
from hfx.implementations import HOOKS, ROLES, provided
from hfx.layers import DEFAULT
from hfx.manager import ActivePlugin, Manager
from hfx.plugin import Plugin, hookimpl
from hfx.protocols import Problem, Rows, RunResult

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


class Wrap(Plugin):
    """Appends its letter to the tokenizer."""

    letter: str = "a"

    @hookimpl(wrapper=True)
    def hfx_export(self, path: Path) -> Iterator[Any]:
        value = yield
        return value / self.letter


class Export(Plugin):
    """Exports."""

    @hookimpl
    def hfx_export(self, path: Path) -> Path:
        return path


# ── calling ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_role_returns_what_its_provider_returned() -> None:
    assert manager(loop=Loop()).run(RUN) == DONE


def test_every_hook_is_called_by_exactly_one_method() -> None:
    assert all(callable(getattr(Manager, hook.removeprefix("hfx_"))) for hook in HOOKS)
    assert {*ROLES.values(), *LISTENERS} == set(HOOKS)


def test_wrappers_transform_in_the_order_in_which_plugins_are_named() -> None:
    first, second = Wrap(letter="a"), Wrap(letter="b")
    assert manager(one=first, export=Export(), two=second).export(RUN, Path("p")) == Path("p/a/b")
    assert manager(two=second, export=Export(), one=first).export(RUN, Path("p")) == Path("p/b/a")


def test_two_plugins_with_equal_options_are_two_plugins() -> None:
    assert manager(one=Wrap(), two=Wrap(), export=Export()).export(RUN, Path("p")) == Path("p/a/a")


def test_listeners_are_told_all_of_them() -> None:
    told: list[str] = []

    class Listen(Plugin):
        """Listens."""

        word: str

        @hookimpl
        def hfx_step_end(self, metrics: dict[str, Any]) -> None:
            told.append(self.word + str(metrics["step"]))

        @hookimpl
        def hfx_evaluated(self, run: Any) -> None:
            told.append(f"{self.word}-evaluated")

        @hookimpl
        def hfx_saved(self, path: Path) -> None:
            told.append(f"{self.word}-{path}")

    both = manager(a=Listen(word="a"), b=Listen(word="b"))
    both.step_end(RUN, {"step": 1})
    both.evaluated(RUN, {})
    both.saved(RUN, Path("c"))
    assert sorted(told) == ["a-c", "a-evaluated", "a1", "b-c", "b-evaluated", "b1"]


def test_check_gathers_the_problems_of_lists_and_generators() -> None:
    class Listed(Plugin):
        """Lists."""

        @hookimpl
        def hfx_check(self, run: Any) -> list[Problem]:
            return [Problem("one")]

    class Yielding(Plugin):
        """Yields."""

        @hookimpl
        def hfx_check(self) -> Iterator[Problem]:
            yield Problem("two", fatal=False)

    class Quiet(Plugin):
        """Says nothing."""

        @hookimpl
        def hfx_check(self) -> None:
            return None

    problems = manager(a=Listed(), b=Yielding(), c=Quiet()).check(RUN)
    assert {problem.message for problem in problems} == {"one", "two"}


def test_all_that_cannot_work_is_said_at_once_each_once_and_warnings_are_returned_where_all_else_can() -> None:
    class Refuses(Plugin):
        """Refuses."""

        fatal: bool = True

        @hookimpl
        def hfx_check(self, run: Any) -> Iterator[Problem]:
            assert run.checking
            yield Problem("first; leave it out", fatal=self.fatal)
            yield Problem("second; leave it out", fatal=self.fatal)

    with pytest.raises(IncompatibleError) as refused:
        manager(a=Refuses(), b=Refuses(), c=Refuses(fatal=False)).refuse(RUN)
    assert str(refused.value).splitlines() == ["first; leave it out", "second; leave it out"]
    assert manager(a=Refuses(fatal=False)).refuse(RUN) == ["first; leave it out", "second; leave it out"]
    assert not RUN.checking


def test_a_check_that_returns_something_else_is_named() -> None:
    class Wrong(Plugin):
        """Wrong."""

        @hookimpl
        def hfx_check(self) -> list[str]:
            return ["bad"]

    with pytest.raises(PluginError, match=r"'wrong' .* returned 'str' for 'hfx_check'; it has to return a Problem"):
        manager(wrong=Wrong()).check(RUN)


# ── results ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("result", [3, "x", Rows])
def test_a_role_that_returns_the_wrong_kind_is_named_with_its_hook(result: Any) -> None:
    with pytest.raises(PluginError, match=r"plugin 'toy' \(hfx-toys 1\.0\) returned .* 'hfx_run'.* a RunResult"):
        manager(toy=Loop(result=result)).run(RUN)


def test_a_role_that_returns_nothing_is_named_with_its_hook() -> None:
    with pytest.raises(PluginError, match=r"'toy' .* returned nothing for 'hfx_run'"):
        manager(toy=Loop(result=None)).run(RUN)


def test_a_wrapper_that_forgets_to_return_is_among_those_named() -> None:
    class Forgets(Plugin):
        """Forgets."""

        @hookimpl(wrapper=True)
        def hfx_run(self) -> Iterator[Any]:
            yield

    with pytest.raises(PluginError, match="wrapped by 'forgets'"):
        manager(loop=Loop(), forgets=Forgets()).run(RUN)


def test_a_role_that_nobody_provides_is_an_error() -> None:
    with pytest.raises(PluginError, match="no active plugin provides the role 'run'"):
        manager(export=Export()).run(RUN)


@pytest.mark.parametrize(
    ("role", "arguments"),
    [
        ("source", {"split": "train"}),
        ("tokenizer", {}),
        ("task", {}),
        ("sampler", {"table": None}),
        ("batcher", {}),
        ("precision", {}),
        ("backend", {}),
        ("model", {}),
        ("optimizer", {"params": None}),
        ("schedule", {"optimizer": None}),
        ("export", {"path": Path()}),
        ("launch", {"main": None}),
    ],
)
def test_every_role_checks_what_it_gets(role: str, arguments: dict[str, Any]) -> None:
    def hook(self: Plugin) -> object:
        return object()

    hook.__name__ = f"hfx_{role}"
    toy = type("Toy", (Plugin,), {f"hfx_{role}": hookimpl(hook)})
    assert provided(toy) == [role]
    with pytest.raises(PluginError, match=f"returned 'object' for 'hfx_{role}'"):
        getattr(manager(toy=toy()), role)(run=RUN, **arguments)


# ── refused ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_two_providers_of_a_role_are_refused() -> None:
    with pytest.raises(IncompatibleError, match="'a' and 'b' both provide 'hfx_run'; drop one with `--plugin no:b`"):
        manager(a=Loop(), b=Loop())


def test_only_hooks_are_looked_at() -> None:
    class Loud(Loop):
        """Has a property that must not be read."""

        @property
        def anything(self) -> str:
            raise AssertionError("read")

    assert manager(loud=Loud()).run(RUN) == DONE


def test_a_manager_needs_no_torch() -> None:
    code = "import sys, hfx.manager; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
