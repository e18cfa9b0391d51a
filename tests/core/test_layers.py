from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hfx.errors import ConfigError
from hfx.layers import Origin, Section, Value, flag, parse_yaml, plain, read_yaml, sectioned

keys = st.text("abcdefgh_", min_size=1, max_size=6)
leaves = st.none() | st.booleans() | st.integers(-9, 9) | st.text("xyz: -", max_size=5) | st.lists(st.integers(0, 3))
trees = st.dictionaries(keys, st.recursive(leaves, lambda inner: st.dictionaries(keys, inner, max_size=3)), max_size=4)


@given(trees)
def test_the_bare_values_are_those_that_plain_yaml_reads(tree: dict[str, object]) -> None:
    text = yaml.safe_dump(tree, sort_keys=False)
    assert plain(parse_yaml(text, "c.yaml")) == yaml.safe_load(text)


@given(trees)
def test_every_key_knows_its_line(tree: dict[str, object]) -> None:
    text = yaml.safe_dump(tree, sort_keys=False)
    lines = text.splitlines()
    for key, value in parse_yaml(text, "c.yaml").items():
        number = int(value.origin.where.rpartition(":")[2])
        assert key in lines[number - 1] or lines[number - 1].startswith("?")


def test_a_value_is_placed_at_its_key_with_file_and_line() -> None:
    tree = parse_yaml("a: 1\nplugins:\n  lion:\n    lr:\n      1e-4\n", "config.yaml")
    lion = tree["plugins"]["lion"]  # type: ignore[index]
    assert lion["lr"] == Value("1e-4", Origin("yaml", "config.yaml:4"))
    assert str(lion.origin) == "config.yaml:3"


def test_the_items_of_a_list_know_their_lines() -> None:
    tree = parse_yaml("block:\n  - a\n\n  - b\n", "p.yaml", "policy")
    value = tree["block"]
    assert isinstance(value, Value)
    assert [str(origin) for origin in value.items] == ["p.yaml:2", "p.yaml:4"]


def test_anchors_and_merge_keys_are_followed() -> None:
    tree = parse_yaml("base: &b {lr: 1, decay: 2}\nlion:\n  <<: *b\n  lr: 3\n", "c.yaml")
    assert plain(tree["lion"]) == {"lr": 3, "decay": 2}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a: 1\nb: 2\na: 3\n", "c.yaml:3: the key 'a' is already given in line 1"),
        ("a: 1\nb: [1,\n", "c.yaml:3"),
        ("- 1\n", "not a mapping"),
        ("a: &x\n  b: *x\n", "c.yaml:2: 'b' contains itself"),
        ("a: !!python/object/apply:os.getcwd []\n", "c.yaml:1"),
        ("? [1, 2]\n: 3\n", "c.yaml:1: a key is not a word"),
    ],
)
def test_what_is_no_config_is_an_error_with_its_line(text: str, where: str) -> None:
    with pytest.raises(ConfigError, match=r"c\.yaml:\d") as caught:
        parse_yaml(text, "c.yaml")
    assert where in str(caught.value)


def test_an_empty_file_is_an_empty_section() -> None:
    assert parse_yaml("# nothing\n", "c.yaml") == {}


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_yaml(tmp_path / "latin.yaml")


def test_a_mapping_keeps_values_that_have_an_origin() -> None:
    given_value = flag("seed", "3")
    tree = sectioned({"seed": given_value, "plugins": {"lion": {"lr": 1}}, "steps": 5}, Origin("python", "x"))
    assert tree["seed"] is given_value
    assert isinstance(tree["plugins"], Section)
    assert tree["steps"] == Value(5, Origin("python", "x"))


@pytest.mark.parametrize(
    ("origin", "shown"),
    [
        (Origin("default"), "default"),
        (Origin("demo"), "demo recipe"),
        (Origin("flag", "--lion.lr"), "--lion.lr"),
        (Origin("yaml", "c.yaml:2"), "c.yaml:2"),
        (Origin("locked", "p.yaml:3"), "p.yaml:3 (locked)"),
    ],
)
def test_an_origin_reads_as_the_place(origin: Origin, shown: str) -> None:
    assert str(origin) == shown
