"""`hfx config`: what is shown is taken back unchanged; the schema says what the validation says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from command_line import hfx

GIVEN = {
    "a demo": ["--plugin", "lion", "--lion.lr", "1e-4"],
    "flags": ["--model", "gpt2", "--data", "{a: x.txt, b: y.txt}", "--steps", "7", "--max-grad-norm", "none"],
    "a negative value": ["--data", "x.txt", "--plugin", "scratch", "--scratch.extra", "{initializer_range: -1.5}"],
    "wrappers": ["--data", "x.txt", "--model", "gpt2", "--plugin", "gradient_checkpointing", "--epochs", "0.5"],
    "a dropped listener": ["--plugin", "no:progress", "--seed=7", "--batch_size", "4"],
}


@pytest.mark.parametrize("arguments", GIVEN.values(), ids=GIVEN)
def test_what_is_shown_is_taken_back_unchanged(arguments: list[str], tmp_path: Path) -> None:
    shown = hfx("config", "show", *arguments)
    assert shown.returncode == 0, shown.stderr
    (tmp_path / "config.yaml").write_text(shown.stdout)
    again = hfx("config", "show", "config.yaml", cwd=tmp_path)
    assert again.stdout == shown.stdout
    assert _values(hfx("train", "--dry-run", *arguments).stdout) == _values(
        hfx("train", "--dry-run", "config.yaml", cwd=tmp_path).stdout
    )


def _values(dry_run: str) -> dict[str, str]:
    table = dry_run.partition("\n\n")[0].splitlines()
    start, end = table[0].index("VALUE"), table[0].index("FROM")
    return {line[:start].strip(): line[start:end].strip() for line in table[1:]}


def test_flags_set_the_values_that_are_shown() -> None:
    shown = yaml.safe_load(
        hfx("config", "show", "--seed", "3", "--plugin", "lion", "--lion.weight-decay=0.25", "--lion.lr", "1e-5").stdout
    )
    assert shown["seed"] == 3
    assert shown["plugins"]["lion"]["weight_decay"] == 0.25
    assert shown["plugins"]["lion"]["lr"] == 1e-5


def test_every_value_has_its_origin(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: x.txt\nsteps: 5\nplugins:\n  lion:\n    lr: 3e-4\n")
    arguments = ["config.yaml", "--seed", "3", "--lion.beta1", "0.5"]
    shown = hfx("config", "show", *arguments, "--origin", cwd=tmp_path).stdout
    rows = {line.split()[1]: line.split()[-1] for line in shown.splitlines() if line.startswith("# ")}
    assert rows["run.steps"] == "config.yaml:2"
    assert rows["lion.lr"] == "config.yaml:5"
    assert rows["run.seed"] == "--seed"
    assert rows["lion.beta1"] == "--lion.beta1"
    assert rows["lion.beta2"] == "default"
    assert yaml.safe_load(shown)["plugins"]["lion"]["lr"] == 3e-4


def test_a_dry_run_says_who_provides_each_role_and_why(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: x.txt\nplugins:\n  lion:\n")
    report = hfx("train", "config.yaml", "--plugin", "linear", "--dry-run", cwd=tmp_path).stdout
    roles = report.split("\n\n")[1].splitlines()[1:]
    why = {line.split()[0]: line.split() for line in roles}
    assert why["optimizer"][1:3] == ["lion", "hfx"]
    assert "config.yaml" in why["optimizer"][-1]
    assert why["schedule"][-2:] == ["--plugin", "linear"]
    assert len(why) == 13


def test_validate_says_ok_or_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("data: x.txt\nplugins:\n  lion: {lr: 1e-4}\n")
    (tmp_path / "bad.yaml").write_text("data: x.txt\nsed: 3\n")
    good, bad = (hfx("config", "validate", name, cwd=tmp_path) for name in ("good.yaml", "bad.yaml"))
    assert good.returncode == 0
    assert good.stdout.startswith("ok")
    assert bad.returncode == 2
    assert "bad.yaml:2" in bad.stderr
    assert "did you mean 'seed'?" in bad.stderr


def test_the_schema_holds_fields_and_options_of_active_plugins() -> None:
    schema = json.loads(hfx("config", "schema", "--plugin", "lion").stdout)
    patterns = schema["properties"]["plugins"]["patternProperties"]
    assert schema["properties"]["seed"]["minimum"] == 0
    assert patterns["^lion(@.+)?$"]["properties"]["lr"]["exclusiveMinimum"] == 0
    assert "^adamw(@.+)?$" not in patterns
    assert patterns["^no:"] == {"type": "null"}


def test_the_schema_of_all_has_every_installed_plugin_and_is_closed() -> None:
    schema = json.loads(hfx("config", "schema", "--all").stdout)
    names = [line["name"] for line in json.loads(hfx("plugins", "--json").stdout)]
    plugins = schema["properties"]["plugins"]
    assert set(plugins["patternProperties"]) == {"^no:", *(f"^{name}(@.+)?$" for name in names)}
    assert plugins["additionalProperties"] is False
