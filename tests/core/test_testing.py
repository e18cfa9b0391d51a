"""The conformance kit against plugins that are wrong: it fails each of them, and by the right check."""

from __future__ import annotations

import importlib
import unittest
from typing import Any

import pytest

from hfx import Plugin, hookimpl
from hfx.implementations import ROLES
from hfx.testing import Check, plugin_checks
from wrong import executor, source_wrapper
from wrong.heavy import Heavy

SUBJECTS = [
    *ROLES,
    "plugin",
    "listener",
    "executor",
    *(f"{role}_wrapper" for role in ("source", "optimizer", "model", "run", "export")),
]
TABLE = {
    (subject, plugin): names
    for subject in SUBJECTS
    for plugin, names in importlib.import_module(f"wrong.{subject}").WRONG.items()
} | {("plugin", Heavy): {"importing it is light"}}


def failing(checks: list[Check]) -> set[str]:
    """Return the names of the checks that fail."""
    return {check.name for check in checks if not passes(check)}


def passes(check: Check) -> bool:
    try:
        check()
    except AssertionError as error:
        return not str(error).strip()
    return True


@pytest.mark.parametrize(("subject", "plugin"), TABLE, ids=lambda value: getattr(value, "__name__", value))
def test_a_wrong_plugin_fails_the_right_checks_and_no_others(subject: str, plugin: type[Plugin]) -> None:
    expected = {f"{subject.replace('_', ' ')}: {name}" for name in TABLE[subject, plugin]}
    assert failing(plugin_checks(plugin)) == expected


@pytest.mark.parametrize("subject", SUBJECTS)
def test_there_are_three_wrong_plugins_of_every_kind(subject: str) -> None:
    assert len([kind for kind, _ in TABLE if kind == subject]) >= 3


@pytest.mark.parametrize("plugin", [*source_wrapper.RIGHT, *executor.RIGHT])
def test_a_right_one_passes(plugin: type[Plugin]) -> None:
    assert not failing(plugin_checks(plugin))


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_check_fails_for_some_wrong_plugin(subject: str) -> None:
    prefix = f"{subject.replace('_', ' ')}: "
    plugin = next(plugin for kind, plugin in TABLE if kind == subject)
    asked = {check.name.removeprefix(prefix) for check in plugin_checks(plugin) if check.name.startswith(prefix)}
    # What wraps a role is asked some of the same: shown to find what is wrong with either is enough.
    same = (subject, subject.removesuffix("_wrapper"))
    shown = {name for (kind, _), names in TABLE.items() if kind in same for name in names}
    assert not asked - shown


class Skipping(Plugin):
    """Skips, as a library for another device might."""

    kind: str = "pytest"
    """Whose skip."""

    @hookimpl
    def hfx_check(self) -> Any:
        if self.kind == "pytest":
            pytest.skip("no such device")
        raise unittest.SkipTest("no such device")


@pytest.mark.parametrize("kind", ["pytest", "unittest"])
def test_a_skipped_check_has_failed(kind: str) -> None:
    assert "plugin: takes part in a plain run" in failing(plugin_checks(Skipping, options={"kind": kind}))


def test_a_check_is_named_by_its_role_and_a_sentence() -> None:
    names = [str(check) for check in plugin_checks("lion")]
    assert "optimizer: norms and biases do not decay" in names
    assert len(set(names)) == len(names)


def test_a_name_that_nobody_offers_is_refused_at_once() -> None:
    from hfx.errors import PluginNotFound

    with pytest.raises(PluginNotFound, match="lion"):
        plugin_checks("lino")
