from __future__ import annotations

from pathlib import Path

import pytest

from hfx.errors import ConfigError, PluginNotFound
from hfx.layers import flag
from hfx.resolve import resolve
from resolving import Rules, Write, go, names, option
from toy_packages import LISTENER, OPTIMIZER, toy_package


def test_a_locked_value_cannot_be_overridden_but_may_be_repeated(config: Write, policy: Rules) -> None:
    rules = policy("locked:\n  run: {seed: 7}\n  lion: {lr: 1e-3}\n")
    resolved = go("lion", fields={"seed": flag("seed", "7")}, options=[("lion.lr", "0.001")], policy=rules)
    assert (resolved.config.seed, option(resolved, "lion", "lr")) == (7, 1e-3)
    assert str(resolved.origins["lion.lr"]) == "p.yaml:3 (locked)"
    with pytest.raises(ConfigError, match=r"'--seed' is '8', but the policy p\.yaml:2 locks it to 7; remove it"):
        go(fields={"seed": flag("seed", "8")}, policy=rules)
    with pytest.raises(ConfigError, match=r"c\.yaml:2: 'plugins\.lion\.lr' is 3, but the policy p\.yaml:3 locks it"):
        go(yaml_path=config("plugins:\n  lion: {lr: 3}\n"), policy=rules)
    with pytest.raises(ConfigError, match="locks it"):
        go("lion", options=[("lion.lr", "x")], policy=rules)


def test_a_locked_length_refuses_every_other_length(config: Write, policy: Rules) -> None:
    rules = policy("locked: {run: {steps: 5}}\n")
    with pytest.raises(
        ConfigError, match=r"'--epochs' sets the length of the run, but the policy p\.yaml:1 locks 'steps'"
    ):
        go(fields={"epochs": flag("epochs", "2")}, policy=rules)
    assert resolve(policy=rules).config.steps == 5


def test_an_activated_plugin_cannot_be_dropped_and_fills_its_role_for_good(
    site: Path, config: Write, policy: Rules
) -> None:
    toy_package(site, "hfx-acme", {"audit": LISTENER, "house_opt": OPTIMIZER})
    rules = policy("activate:\n  - house_opt\nactivate_last: [audit]\ndefaults:\n  audit: {path: log}\n")
    resolved = go(policy=rules)
    assert names(resolved)[0] == "house_opt"
    assert names(resolved)[-1] == "audit"
    assert option(resolved, "audit", "path") == "log"
    assert resolved.roles["optimizer"].why == "p.yaml:2 (always on)"
    for dropping in (
        lambda: go("no:audit", policy=rules),
        lambda: go(yaml_path=config("plugins: {no:audit: }\n"), policy=rules),
    ):
        with pytest.raises(ConfigError, match=r"'audit' is always on by the policy p\.yaml:3; remove 'no:audit'"):
            dropping()
    with pytest.raises(
        ConfigError, match=r"'lion' of --plugin lion provides 'optimizer', which the policy p.yaml:2 fills"
    ):
        go("lion", policy=rules)
    assert option(go("audit", options=[("audit.path", "mine")], policy=rules), "audit", "path") == "mine"


def test_an_activated_plugin_cannot_be_swapped_for_a_namesake(site: Path, policy: Rules) -> None:
    toy_package(site, "hfx-acme", {"audit": LISTENER})
    toy_package(site, "hfx-fake", {"audit": LISTENER})
    rules = policy("activate: [audit@hfx-acme]\n")
    with pytest.raises(ConfigError, match=r"'audit@hfx-acme' is always on by the policy"):
        go("audit@hfx-fake", policy=rules)
    with pytest.raises(PluginNotFound, match=r"^p\.yaml:1: more than one package"):
        go(policy=policy("activate: [audit]\n"))


def test_two_activated_providers_of_a_role_are_the_policys_error(policy: Rules) -> None:
    with pytest.raises(ConfigError, match=r"the policy p.yaml:1 activates both"):
        go(policy=policy("activate: [lion, adafactor]\n"))


def test_block_and_allow_are_read_before_any_import(site: Path, policy: Rules) -> None:
    toy_package(site, "hfx-bad", {"bad": "raise RuntimeError('imported')\n"})
    for text, reason in [
        ("block: [bad]\n", "is blocked"),
        ("allow: [hfx]\n", "does not list 'hfx-bad'"),
        ("require: {hfx-bad: '>=2'}\n", "installed is 1.0"),
        ("require: {'hfx-b*': '>=2'}\n", "installed is 1.0"),
    ]:
        with pytest.raises(ConfigError, match=reason):
            go("bad", policy=policy(text))


def test_a_blocked_default_is_an_error_and_no_stranger_takes_its_place(site: Path, policy: Rules) -> None:
    toy_package(site, "hfx-evil", {"adamw": OPTIMIZER})
    with pytest.raises(PluginNotFound, match="'adamw@hfx' is blocked"):
        go(policy=policy("block: [adamw@hfx]\n"))


def test_roles_of_the_policy_replace_the_table_of_defaults(policy: Rules) -> None:
    resolved = go(policy=policy("roles:\n  optimizer: lion\n"))
    assert (resolved.roles["optimizer"].plugin, resolved.roles["optimizer"].why) == ("lion", "p.yaml:2")
    assert go("adafactor", policy=policy("roles: {optimizer: lion}\n")).roles["optimizer"].plugin == "adafactor"
    with pytest.raises(ConfigError, match=r"p\.yaml:1: there is no role 'optimiser'; did you mean 'optimizer'"):
        go(policy=policy("roles: {optimiser: lion}\n"))
    with pytest.raises(ConfigError, match="'cosine' does not provide the role 'optimizer'"):
        go(policy=policy("roles: {optimizer: cosine}\n"))


def test_a_policys_own_mistakes_are_shown(policy: Rules) -> None:
    assert any("did you mean 'lion'" in note for note in go(policy=policy("locked: {lino: {lr: 1}}\n")).notes)
    with pytest.raises(ConfigError, match=r"p\.yaml:1: 'run\.sed' is no field of the run; did you mean 'seed'"):
        go(policy=policy("locked: {run: {sed: 1}}\n"))
    with pytest.raises(ConfigError, match=r"p\.yaml:1: 'adamw\.lrr' is no option of plugin 'adamw'"):
        go(policy=policy("defaults: {adamw: {lrr: 1}}\n"))
