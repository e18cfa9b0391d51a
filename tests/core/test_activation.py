from __future__ import annotations

from pathlib import Path

import pytest

from hfx.errors import ConfigError, PluginError, PluginNotFound
from hfx.resolve import DEFAULTS, ROLES
from resolving import Rules, Write, distribution, go, names, option
from toy_packages import OPTIMIZER, WRAPPER, toy_package


def test_every_role_has_a_default_and_every_default_fills_its_role() -> None:
    assert set(DEFAULTS) == set(ROLES)
    resolved = go(fields={"model": "some/model"})
    assert {role: choice.plugin for role, choice in resolved.roles.items()} == DEFAULTS
    assert resolved.roles["model"].why == "default"
    assert names(resolved) == ["progress", "guard", *DEFAULTS.values()]


def test_a_named_plugin_takes_its_role() -> None:
    resolved = go("lion", options=[("lion.lr", "1e-4"), ("lion.weight-decay", "0")])
    assert (resolved.roles["optimizer"].plugin, resolved.roles["optimizer"].why) == ("lion", "--plugin lion")
    assert (option(resolved, "lion", "lr"), option(resolved, "lion", "weight_decay")) == (1e-4, 0.0)
    assert "adamw" not in names(resolved)
    assert resolved.notes == []


def test_two_providers_in_one_layer_name_both_and_how_to_drop_one(config: Write) -> None:
    with pytest.raises(ConfigError, match="'lion' and 'adafactor' both provide the role 'optimizer'; drop one: remove"):
        go("lion", "adafactor")
    with pytest.raises(ConfigError, match=r"\(c\.yaml:2 and c\.yaml:3\); drop one.*`--plugin no:adafactor`"):
        go(yaml_path=config("plugins:\n  lion:\n  adafactor:\n"))
    assert "lion" in names(go("no:adafactor", yaml_path=config("plugins:\n  lion:\n  adafactor:\n")))


def test_a_later_layer_replaces_the_provider_and_says_so(config: Write) -> None:
    resolved = go("adafactor", yaml_path=config("plugins:\n  lion: {lr: 1}\n"))
    assert resolved.roles["optimizer"].plugin == "adafactor"
    assert resolved.notes == ["'adafactor' of --plugin adafactor replaces 'lion' of c.yaml:2"]


def test_a_dropped_default_leaves_its_role_empty_which_is_an_error() -> None:
    with pytest.raises(
        ConfigError, match="nobody provides the role 'optimizer': 'adamw' is dropped by --plugin no:adamw"
    ):
        go("no:adamw")
    assert go("no:adamw", "lion").roles["optimizer"].plugin == "lion"


def test_within_a_layer_the_last_word_counts_and_a_later_layer_overrides(config: Write) -> None:
    assert "lion" not in names(go("lion", "no:lion"))
    assert "lion" in names(go("no:lion", "lion"))
    assert "progress" in names(go("progress", yaml_path=config("plugins:\n  no:progress:\n")))
    assert "progress" not in names(go(yaml_path=config("plugins:\n  no:progress:\n")))


def test_a_dropped_plugin_is_never_imported(site: Path, config: Write) -> None:
    toy_package(site, "hfx-bad", {"bad": "raise RuntimeError\n"})
    assert "bad" not in names(go("no:bad", "bad", "no:bad"))
    with pytest.raises(PluginError, match=r"'bad' of 'hfx-bad' 1.0"):
        go("bad")


def test_an_installed_plugin_that_nobody_named_breaks_nothing(site: Path) -> None:
    toy_package(site, "hfx-bad", {"bad": "raise RuntimeError\n", "lion": "raise RuntimeError\n"})
    assert "bad" not in names(go())


def test_plugins_come_in_the_order_of_their_first_mention(site: Path, config: Write, policy: Rules) -> None:
    toy_package(site, "hfx-toys", dict.fromkeys(["w_a", "w_b", "w_c", "w_first", "w_last"], WRAPPER))
    rules = policy("activate: [w_first]\nactivate_last: [w_last]\n")
    path = config("plugins:\n  w_b:\n  w_last:\n")
    resolved = go("w_c", "w_b", "w_a", yaml_path=path, policy=rules)
    assert [name for name in names(resolved) if name.startswith("w_")] == ["w_first", "w_b", "w_c", "w_a", "w_last"]
    assert resolved.manager.wrappers("hfx_model")[-1].name == "w_last"


def test_a_provider_of_two_roles_replaced_in_one_leaves_the_other_to_the_default(site: Path, config: Write) -> None:
    both = OPTIMIZER + "\n    @hookimpl\n    def hfx_batcher(self):\n        return 1\n"
    toy_package(site, "hfx-toys", {"both": both})
    resolved = go("lion", yaml_path=config("plugins:\n  both:\n"))
    assert (resolved.roles["optimizer"].plugin, resolved.roles["batcher"].plugin) == ("lion", "padding")
    with pytest.raises(ConfigError, match="'both' and 'lion' both provide the role 'optimizer'"):
        go("both", "lion")


def test_an_unknown_name_is_answered_with_the_nearest_and_its_place(config: Write) -> None:
    with pytest.raises(PluginNotFound, match="'lino'; did you mean 'lion'"):
        go("lino")
    with pytest.raises(PluginNotFound, match="did you mean 'lion'"):
        go("no:lino")
    with pytest.raises(PluginNotFound, match=r"^c\.yaml:3: no installed package offers a plugin 'lino'"):
        go(yaml_path=config("data: x\nplugins:\n  lino:\n"))


def test_a_name_that_two_packages_offer_is_chosen_by_distribution_or_prefer(
    site: Path, config: Write, policy: Rules
) -> None:
    toy_package(site, "hfx-fastlion", {"lion": OPTIMIZER, "adamw": OPTIMIZER})
    with pytest.raises(PluginNotFound, match="'lion@hfx' or 'lion@hfx-fastlion'"):
        go("lion")
    assert go().plugins[-3].distribution == "hfx"
    assert distribution(go("lion@hfx-fastlion"), "lion") == "hfx-fastlion"
    assert distribution(go("lion@hfx"), "lion") == "hfx"
    assert distribution(go(yaml_path=config("plugins:\n  lion@hfx-fastlion: {lr: 2}\n")), "lion") == "hfx-fastlion"
    preferring = policy("prefer: {lion: hfx-fastlion}\n")
    assert distribution(go("lion", policy=preferring), "lion") == "hfx-fastlion"
    assert distribution(go("lion@hfx", policy=preferring), "lion") == "hfx"
    assert distribution(go("lion", policy=policy("block: [hfx-fastlion]\n")), "lion") == "hfx"
    with pytest.raises(PluginNotFound, match=r"'lion@hfx-fastlion' is blocked by the policy p\.yaml:1"):
        go("lion@hfx-fastlion", policy=policy("block: [hfx-fastlion]\nprefer: {lion: hfx-fastlion}\n"))


def test_a_choice_of_distribution_holds_for_later_layers(site: Path, config: Write) -> None:
    toy_package(site, "hfx-fastlion", {"lion": OPTIMIZER})
    path = config("plugins:\n  lion@hfx-fastlion: {lr: 2}\n")
    assert option(go("lion", yaml_path=path), "lion", "lr") == 2
    other = go("lion@hfx", yaml_path=path)
    assert (distribution(other, "lion"), option(other, "lion", "lr")) == ("hfx", 1e-4)
    assert other.notes == ["'lion@hfx' of --plugin lion@hfx replaces 'lion@hfx-fastlion' of c.yaml:2"]


def test_a_name_given_twice_is_an_error(config: Write) -> None:
    with pytest.raises(ConfigError, match=r"given twice, by c.yaml:2 and c.yaml:3"):
        go(yaml_path=config("plugins:\n  lion: {lr: 1}\n  lion@hfx: {lr: 2}\n"))
    assert "lion" in names(go("lion", "lion"))
