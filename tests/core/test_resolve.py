from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hfx import Plugin, hookimpl
from hfx.errors import ConfigError, PluginNotFound
from hfx.layers import Origin, Section, Value, flag
from hfx.policy import Policy
from hfx.resolve import describe, resolve, to_yaml
from resolving import FREE, Rules, Write, go, names, option
from toy_packages import LISTENER, OPTIMIZER, toy_package


def test_flags_beat_yaml_and_yaml_beats_the_policys_defaults(config: Write, policy: Rules) -> None:
    rules = policy(
        "defaults:\n  lion: {lr: 1, weight_decay: 1, beta1: 0.1}\n  run: {seed: 1, batch_size: 1, keep: 3}\n"
    )
    path = config("seed: 2\nbatch_size: 2\nplugins:\n  lion:\n    lr: 2\n    weight_decay: 2\n")
    resolved = go(options=[("lion.lr", "3")], fields={"seed": flag("seed", "3")}, yaml_path=path, policy=rules)
    rows = {name: (value, str(origin)) for name, value, origin in describe(resolved)}
    assert rows["lion.lr"] == (3.0, "--lion.lr")
    assert rows["lion.weight_decay"] == (2.0, "c.yaml:6")
    assert rows["lion.beta1"] == (0.1, "p.yaml:2")
    assert rows["lion.beta2"][1] == "default"
    assert rows["run.seed"] == (3, "--seed")
    assert rows["run.batch_size"] == (2, "c.yaml:2")
    assert rows["run.keep"] == (3, "p.yaml:3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: x\nsteps_: 3\n", "c.yaml:2: 'steps_' is no field of the run; did you mean 'steps'?"),
        (
            "plugins:\n  lion:\n    lrr: 1\n",
            "c.yaml:3: 'plugins.lion.lrr' is no option of plugin 'lion'; did you mean 'lr'?",
        ),
        ("lion:\n  lr: 1\n", "c.yaml:1: 'lion' is no field of the run; 'lion' is a plugin: write it under 'plugins:'"),
        ("lr: 1\n", "it is an option of 'adamw', write it under 'plugins.adamw'"),
        ("plugins:\n  lion:\n    vocab_size: 1\n", "it is an option of 'bpe', that plugin is active too"),
        ("plugins:\n  lion:\n    relative_step: 1\n", "'plugins.lion.relative_step' is no option of plugin 'lion'"),
        ("plugins: [lion]\n", "c.yaml:1: 'plugins' is no mapping"),
        ("plugins:\n  lion: 3\n", "c.yaml:2: 'plugins.lion' is 3; write `option: value` under it"),
        ("plugins:\n  no:lion: {lr: 1}\n", "drops a plugin and has options"),
        ("steps: 0\n", "c.yaml:1: 'steps' is 0; it should be greater than 0"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_file_line_and_path(config: Write, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(yaml_path=config(text), policy=FREE)
    assert message in str(caught.value)


def test_a_key_of_an_inactive_plugin_names_that_plugin(site: Path, config: Write) -> None:
    toy_package(site, "hfx-toys", {"zeta": LISTENER.replace("path: str", "log_path: str")})
    with pytest.raises(ConfigError, match="option of 'zeta', which is not active: add `--plugin zeta`"):
        go(yaml_path=config("log_path: x\n"))


@pytest.mark.parametrize(
    ("plugins", "path", "message"),
    [
        ((), "lion.lr", "'--lion.lr' is an option of 'lion', which is not active; add `--plugin lion`"),
        (("no:progress",), "progress.every", "which is dropped by --plugin no:progress"),
        ((), "lino.lr", "did you mean 'lion'"),
        (("lion",), "lion.lrr", "'--lion.lrr' is no option of plugin 'lion'; did you mean '--lion.lr'?"),
        (("lion",), "lion", "write `--NAME.OPTION VALUE`"),
    ],
)
def test_an_option_that_nobody_takes_says_what_to_type(plugins: tuple[str, ...], path: str, message: str) -> None:
    with pytest.raises(ConfigError if "NAME" not in message else Exception) as caught:
        go(*plugins, options=[(path, "1")])
    assert message in str(caught.value)


def test_an_optional_field_is_cleared_by_none() -> None:
    resolved = go(fields={"max_grad_norm": flag("max-grad-norm", "none")})
    assert resolved.config.max_grad_norm is None
    with pytest.raises(ConfigError, match="'--seed' is 'none'"):
        go(fields={"seed": flag("seed", "none")})


def test_a_later_length_replaces_another_and_says_so(config: Write) -> None:
    resolved = go(fields={"epochs": flag("epochs", "2")}, yaml_path=config("steps: 100\n"))
    assert (resolved.config.steps, resolved.config.epochs) == (None, 2.0)
    assert resolved.notes == ["'epochs' of --epochs replaces 'steps' of c.yaml:1"]
    with pytest.raises(ConfigError, match="both set the length"):
        go(fields={"epochs": flag("epochs", "2"), "steps": flag("steps", "2")})


def test_a_config_is_a_file_or_a_mapping_and_not_both(config: Write) -> None:
    mapping = {"steps": 3, "plugins": {"lion": {"lr": 1.0}, "no:progress": None}}
    resolved = go(mapping=mapping)
    assert (resolved.config.steps, option(resolved, "lion", "lr")) == (3, 1.0)
    assert "progress" not in names(resolved)
    with pytest.raises(Exception, match="both as a file and as a mapping"):
        go(mapping=mapping, yaml_path=config("steps: 3\n"))


def test_with_neither_model_nor_data_the_demo_recipe_is_a_layer_above_the_defaults(
    config: Write, policy: Rules
) -> None:
    resolved = resolve(policy=policy("defaults: {run: {seq_length: 64}}\n"), yaml_path=config("batch_size: 4\n"))
    assert resolved.roles["source"].plugin == "stdlib"
    assert str(resolved.origins["run.steps"]) == "demo recipe"
    assert (resolved.config.seq_length, resolved.config.batch_size) == (64, 4)
    assert any("demo recipe" in note for note in resolved.notes)


@pytest.mark.parametrize("given", [{"data": "x"}, {"model": "x"}])
def test_a_model_or_data_ends_the_demo(given: dict[str, str]) -> None:
    resolved = resolve(fields=given, policy=FREE)
    assert resolved.config.steps is None
    assert "stdlib" not in names(resolved)


def test_somebody_elses_source_ends_the_demo_and_its_own_plugins_do_not(site: Path) -> None:
    source = OPTIMIZER.replace("hfx_optimizer(self, params, run)", "hfx_source(self, split)")
    toy_package(site, "hfx-toys", {"private": source})
    assert resolve(plugin_args=["private"], policy=FREE).config.steps is None
    assert resolve(plugin_args=["stdlib", "lion"], policy=FREE).config.steps == 300


def test_the_demos_length_gives_way_to_the_users_without_an_error() -> None:
    resolved = resolve(fields={"epochs": flag("epochs", "1")}, policy=FREE)
    assert (resolved.config.steps, resolved.config.epochs) == (None, 1.0)


def test_resolving_imports_no_torch_and_only_named_plugins() -> None:
    code = (
        "import sys; from hfx.resolve import resolve\n"
        "resolve(fields={'data': 'x'}, plugin_args=['lion'])\n"
        "bad = {'torch', 'transformers', 'numpy', 'pyarrow', 'hfx_plugins.optimizers.adafactor'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_section_of_defaults_given_in_code_works_like_a_file() -> None:
    rules = Policy(defaults=Section({"run": Section({"seed": Value(5, Origin("policy", "here"))})}))
    assert go(policy=rules).config.seed == 5


class OfAScript(Plugin):
    """A plugin that is no entry point."""

    lr: float = 0.1
    """Learning rate."""

    @hookimpl
    def hfx_optimizer(self) -> None:
        """Never called here."""


def test_a_run_with_a_class_from_python_goes_on_with_the_class_and_its_saved_options(tmp_path: Path) -> None:
    first = resolve(mapping={"data": "rows.jsonl"}, plugin_objects=[OfAScript(lr=0.5)], policy=Policy())
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(first))

    again = resolve(yaml_path=file, plugin_objects=[OfAScript()], policy=Policy())

    assert next(a.plugin.options() for a in again.plugins if a.name == "of_a_script") == {"lr": 0.5}
    assert again.roles["optimizer"].plugin == "of_a_script"
    with pytest.raises(PluginNotFound, match="'of_a_script' is a class that was given from Python"):
        resolve(yaml_path=file, policy=Policy())
