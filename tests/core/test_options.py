from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, PositiveFloat, model_validator

from hfx.config import RunConfig
from hfx.errors import ConfigError
from hfx.layers import Origin, Section, Value, flag
from hfx.options import build, check_keys, from_text, members, merge, path_of
from hfx.plugin import Plugin, Secret


class Toy(Plugin):
    """A toy."""

    lr: PositiveFloat = 0.1
    fused: bool = False
    betas: tuple[float, float] = (0.9, 0.99)
    names: list[str] = Field(default_factory=list)
    limit: int | None = 3
    kind: Literal["none", "fast"] = "fast"
    maybe: Literal["none", "fast"] | None = "fast"
    device_map: str | dict[str, int] | None = None
    text: str = "x"
    free: Any = None


class Keyed(Plugin):
    """Needs a secret."""

    url: str
    key: Secret = "env:KEY"


def typed(text: str, key: str) -> Any:
    return getattr(build(Toy, {key: flag(f"toy.{key}", text)}, "toy"), key)


def yaml_value(value: Any, line: int = 7) -> Value:
    return Value(value, Origin("yaml", f"c.yaml:{line}"))


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("1e-4", "lr", 1e-4),
        ("false", "fused", False),
        ("True", "fused", True),
        ("[0.5, 1e-3]", "betas", (0.5, 1e-3)),
        ("[a, b]", "names", ["a", "b"]),
        ("none", "limit", None),
        ("NULL", "limit", None),
        ("12", "limit", 12),
        ("none", "kind", "none"),
        ("none", "maybe", "none"),
        ("null", "maybe", None),
        ("auto", "device_map", "auto"),
        ("{a: 1}", "device_map", {"a": 1}),
        ("none", "device_map", None),
        ("none", "text", "none"),
        ("[1, 2]", "text", "[1, 2]"),
        ("[ab]*.txt", "device_map", "[ab]*.txt"),
        ("1e-4", "text", "1e-4"),
    ],
)
def test_words_are_read_by_the_type_of_their_field(text: str, key: str, value: object) -> None:
    assert typed(text, key) == value


def test_words_of_a_file_stay_words_where_the_field_takes_words() -> None:
    model = build(Toy, {key: yaml_value("none") for key in ("limit", "device_map", "text", "maybe")}, "toy")
    assert (model.limit, model.device_map, model.text, model.maybe) == (None, "none", "none", "none")
    assert build(Toy, {"lr": yaml_value("1e-4"), "names": yaml_value("[a]")}, "toy").names == ["a"]


@given(st.floats(min_value=1e-300, max_value=1e300))
def test_any_float_that_python_prints_is_read_back(value: float) -> None:
    assert typed(repr(value), "lr") == value


@given(st.text(max_size=20))
def test_a_text_field_takes_any_words_as_they_are(text: str) -> None:
    assert typed(text, "text") == text


@given(st.lists(st.text("abc", min_size=1), max_size=4))
def test_a_list_is_written_as_yaml_flow(names: list[str]) -> None:
    assert typed("[" + ", ".join(names) + "]", "names") == names


def test_a_typed_list_needs_no_brackets() -> None:
    assert typed("a", "names") == ["a"]
    assert typed("a,b", "names") == ["a", "b"]
    assert typed("*.mlp, layers.[01].*", "names") == ["*.mlp", "layers.[01].*"]  # no YAML


def test_unions_annotations_and_literals_are_taken_apart() -> None:
    kinds = list(members(Annotated[int | None, Field(gt=0)] | Literal["auto"]))
    assert kinds == [int, type(None), Literal["auto"]]
    assert from_text("none", int) == "none"


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "key", "message"),
    [
        (flag("toy.lr", "-1"), "lr", "'--toy.lr' is '-1'; it should be greater than 0"),
        (flag("toy.lr", "x"), "lr", "'--toy.lr' is 'x'; it should be a valid number"),
        (flag("toy.names", "[a"), "names", "it should be YAML"),
        (yaml_value(-1), "lr", "c.yaml:7: 'plugins.toy.lr' is -1; it should be greater than 0"),
        (yaml_value(True), "lr", "c.yaml:7: 'plugins.toy.lr' is True; it should be a number"),
        (yaml_value(3), "text", "it should be text: put it in quotes"),
        (yaml_value(None), "lr", "c.yaml:7: 'plugins.toy.lr' is None"),
        (Value(-1, Origin("policy", "p.yaml:2")), "lr", "p.yaml:2: 'toy.lr' is -1"),
        (Value(-1, Origin("python", "Toy(...)")), "lr", "'toy.lr' is -1"),
        (yaml_value("slow"), "kind", "it should be 'none' or 'fast'"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_place(value: Value, key: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Toy, {key: value}, "toy")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_wrong_values_name_the_first_and_count_the_rest() -> None:
    with pytest.raises(ConfigError, match=r"toy\.lr.*\(and 1 more wrong\)"):
        build(Toy, {"lr": flag("toy.lr", "x"), "limit": flag("toy.limit", "y")}, "toy")


def test_a_field_of_the_run_is_named_without_a_plugin() -> None:
    with pytest.raises(ConfigError, match=r"^c\.yaml:7: 'steps' is -3; it should be greater than 0$"):
        build(RunConfig, {"steps": yaml_value(-3)})
    with pytest.raises(ConfigError, match="'steps' and 'epochs' both set the length"):
        build(RunConfig, {"steps": yaml_value(3), "epochs": yaml_value(1)})


def test_a_field_with_alternatives_says_them_all() -> None:
    with pytest.raises(ConfigError, match=r"valid integer.* or it should be 'auto'"):
        build(RunConfig, {"nproc": flag("nproc", "many")})
    assert build(RunConfig, {"nproc": flag("nproc", "2")}).nproc == 2
    assert build(RunConfig, {"data": flag("data", "{a: x}")}).data == {"a": "x"}


def test_a_path_object_is_taken_where_a_field_wants_text() -> None:
    model = build(RunConfig, {key: Value(Path("a/b"), Origin("python", key)) for key in ("model", "output")})
    assert (model.model, model.output) == ("a/b", Path("a/b"))


def test_a_missing_option_says_what_to_add() -> None:
    with pytest.raises(ConfigError, match=r"plugin 'keyed' needs the option 'url'; add `--keyed\.url VALUE`"):
        build(Keyed, {}, "keyed")


def test_a_secret_that_was_typed_is_never_printed() -> None:
    with pytest.raises(ConfigError, match="a secret is given as 'env:NAME'") as caught:
        build(Keyed, {"url": flag("keyed.url", "u"), "key": flag("keyed.key", "hunter2")}, "keyed")
    assert "hunter2" not in str(caught.value)


def test_what_a_plugin_says_about_its_options_together_is_passed_on() -> None:
    class Pair(Plugin):
        """A pair."""

        low: int = 0
        high: int = 1

        @model_validator(mode="after")
        def _ordered(self) -> Pair:
            if self.low > self.high:
                raise ValueError("'low' is above 'high'; swap them")
            return self

    with pytest.raises(ConfigError, match=r"^plugin 'pair': 'low' is above 'high'; swap them$"):
        build(Pair, {"low": flag("pair.low", "5")}, "pair")


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (flag("toy.lrr", "1"), "'--toy.lrr' is no option of plugin 'toy'; did you mean '--toy.lr'?"),
        (yaml_value(1), "c.yaml:7: 'plugins.toy.lrr' is no option of plugin 'toy'; did you mean 'lr'?"),
    ],
)
def test_a_misspelt_option_names_the_nearest(value: Value, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_keys(Toy, {"lrr": value}, "toy", lambda key: "")
    assert str(caught.value) == message


def test_a_key_that_resembles_nothing_asks_elsewhere_then_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"; it is zeta's$"):
        check_keys(Toy, {"zzz": yaml_value(1)}, "toy", lambda key: " it is zeta's")
    with pytest.raises(ConfigError, match="it has: lr, fused"):
        check_keys(Toy, {"zzz": yaml_value(1)}, "toy", lambda key: "")


def test_the_later_layer_wins_and_dashes_are_underscores() -> None:
    nested = Section({"a": yaml_value(1)}, Origin("yaml", "c.yaml:3"))
    merged = merge([{"weight-decay": yaml_value(1)}, {"weight_decay": yaml_value(2), "map": nested}])
    assert merged == {"weight_decay": yaml_value(2), "map": Value({"a": 1}, Origin("yaml", "c.yaml:3"))}


def test_a_path_is_written_as_it_was_given() -> None:
    assert path_of("lion", "lr", Origin("flag", "--lion.lr")) == "'--lion.lr'"
    assert path_of("", "seed", Origin("locked", "p.yaml:2")) == "p.yaml:2: 'run.seed'"
