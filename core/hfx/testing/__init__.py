"""The conformance kit: what hfx asks of a plugin, by role, as named checks that drive it on tiny real things.

    @pytest.mark.parametrize("check", plugin_checks("lion"), ids=str)
    def test_lion_conforms(check: Check) -> None:
        check()

A check fails with an `AssertionError` that says what is wrong. None is ever skipped: one that cannot be made fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hfx.plugin import Plugin
from hfx.testing.check import Check as Check
from hfx.testing.elastic import assert_elastic as assert_elastic
from hfx.testing.elastic import assert_resumable as assert_resumable

__all__ = ["Check", "assert_elastic", "assert_resumable", "plugin_checks"]


def plugin_checks(
    plugin: str | type[Plugin],
    *,
    options: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
) -> list[Check]:
    """Return the checks of a plugin: the general ones, and those of every role it provides, wraps or listens to.

    `plugin` is the name of an entry point (`lion`, `lion@hfx-fastlion`) or a class that need not be one. `options` are
    the plugin's own, where its defaults will not do; `config` is what a config file may hold (other plugins included)
    and `rows` is what the training data holds, where the plugin needs other columns than `text` and `label`.

    Raises:
        PluginNotFound: nobody offers a plugin of that name.
        PluginError: it cannot be imported.
    """
    from hfx.testing.bench import Bench
    from hfx.testing.catalogue import checks_of

    return checks_of(Bench.of(plugin, options or {}, config or {}, rows))
