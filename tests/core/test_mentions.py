from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import PrivateAttr

from hfx.errors import ConfigError
from hfx.plugin import Plugin, hookimpl
from hfx.resolve import to_yaml
from resolving import FREE, Rules, go, option


class HouseOptimizer(Plugin):
    """An optimizer that is no entry point."""

    lr: float = 0.5
    decay: float = 0.1
    _held: Any = PrivateAttr(default=None)

    @hookimpl
    def hfx_optimizer(self, params: Any) -> Any:
        return self._held


def test_an_object_of_a_registered_class_has_its_entry_points_name(policy: Rules) -> None:
    from hfx_plugins.optimizers.lion import Lion

    rules = policy("defaults: {lion: {lr: 1, weight_decay: 0.5}}\n")
    active = go(plugin_objects=[Lion(lr=2.0)], policy=rules).plugins[0]
    assert (active.name, active.distribution, active.registered) == ("lion", "hfx", True)
    assert isinstance(active.plugin, Lion)
    assert (active.plugin.lr, active.plugin.weight_decay) == (2.0, 0.5)
    with pytest.raises(ConfigError, match=r"'lion\.lr' is 2\.0, but the policy p\.yaml:1 locks it to 1"):
        go(plugin_objects=[Lion(lr=2.0)], policy=policy("locked: {lion: {lr: 1}}\n"))


def test_an_unregistered_class_is_named_in_snake_case_and_stays_the_same_object() -> None:
    plugin = HouseOptimizer(lr=0.25)
    active = go(plugin_objects=[plugin]).plugins[0]
    assert active.plugin is plugin
    assert (active.name, active.registered, active.distribution) == ("house_optimizer", False, "")
    assert "# 'house_optimizer' is unregistered" in to_yaml(go(plugin_objects=[plugin]))


def test_an_object_keeps_what_it_holds_when_the_policy_adds_options(policy: Rules) -> None:
    plugin = HouseOptimizer(lr=0.25)
    plugin._held = "held"
    resolved = go(plugin_objects=[plugin], policy=policy("defaults: {house_optimizer: {decay: 0.2}}\n"))
    assert (option(resolved, "house_optimizer", "decay"), option(resolved, "house_optimizer", "_held")) == (0.2, "held")
    assert option(resolved, "house_optimizer", "lr") == 0.25


def test_an_allow_list_refuses_an_unregistered_class() -> None:
    with pytest.raises(ConfigError, match="'house_optimizer' is no installed plugin"):
        go(plugin_objects=[HouseOptimizer()], policy=replace(FREE, allow=("*",)))


def test_objects_given_twice_or_that_are_no_plugins_are_refused() -> None:
    with pytest.raises(ConfigError, match="given twice"):
        go(plugin_objects=[HouseOptimizer(), HouseOptimizer()])
    with pytest.raises(ConfigError, match="is no plugin; give an instance"):
        go(plugin_objects=[HouseOptimizer])  # type: ignore[list-item]
