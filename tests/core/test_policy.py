from __future__ import annotations

from pathlib import Path

import pytest

from hfx.discovery import PluginRef
from hfx.errors import ConfigError
from hfx.layers import plain
from hfx.policy import Policy, load_policy, read_policy


def ref(name: str = "lion", distribution: str = "hfx-fastlion", version: str = "1.5") -> PluginRef:
    return PluginRef(name, distribution, version, "nowhere:Toy")


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_every_key_of_a_policy_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "p.yaml",
        "allow: [hfx, acme-*]\nblock: [evil]\nrequire: {acme: '>=1'}\nprefer: {my-lion: acme}\nactivate: [audit]\n"
        "activate_last: [ema]\ndefaults: {lion: {lr: 1}}\nlocked:\n  run:\n    seed: 3\nroles: {optimizer: lion}\n"
        "permit_variable: true\n",
    )
    policy = read_policy(path)
    assert (policy.allow, policy.block, policy.activate, policy.activate_last) == (
        ("hfx", "acme-*"),
        ("evil",),
        ("audit",),
        ("ema",),
    )
    assert (policy.require, policy.prefer, policy.roles) == (
        {"acme": ">=1"},
        {"my_lion": "acme"},
        {"optimizer": "lion"},
    )
    assert plain(policy.defaults) == {"lion": {"lr": 1}}
    assert policy.permit_variable
    assert policy.path == path
    assert str(policy.locked["run"]["seed"].origin) == f"{path}:10"  # type: ignore[index]
    assert str(policy.line("activate", "audit")) == f"{path}:5"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: 1\nblok: [x]\n", ":2"),
        ("blok: [x]\n", "did you mean 'block'"),
        ("allow: hfx\n", "'allow' of a policy is a list of words"),
        ("allow: [1]\n", "'allow' of a policy is a list of words"),
        ("prefer: [x]\n", "'prefer' of a policy is a mapping"),
        ("require: {x: 1}\n", "'require' of a policy is a mapping"),
        ("locked: 3\n", "'locked' of a policy is a mapping"),
        ("locked: {lion: 3}\n", "'locked.lion' is not a mapping of options"),
        ("permit_variable: 1\n", "'permit_variable' of a policy is true or false"),
        ("a: [\n", "not YAML"),
    ],
)
def test_a_bad_policy_is_an_error_with_file_and_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = write(tmp_path / "p.yaml", text.replace("a: 1\n", "allow: []\n"))
    with pytest.raises(ConfigError, match=rf"{path}:\d") as caught:
        read_policy(path)
    assert complaint in str(caught.value)


# ── where it is read from ────────────────────────────────────────────────────────────────────────────────────────────


def test_without_a_policy_everything_is_permitted(tmp_path: Path) -> None:
    assert load_policy(tmp_path / "none", {}) == Policy()
    assert Policy().refusal("lion", "anyone") == ""


def test_the_variable_names_a_policy_where_the_machine_has_none(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.yaml", "block: [x]\n")
    assert load_policy(tmp_path / "none", {"HFX_POLICY": str(mine)}).block == ("x",)


def test_the_variable_is_refused_where_the_machine_has_a_policy(tmp_path: Path) -> None:
    system = write(tmp_path / "system.yaml", "block: [x]\n")
    mine = write(tmp_path / "mine.yaml", "block: []\n")
    with pytest.raises(ConfigError, match="does not permit"):
        load_policy(system, {"HFX_POLICY": str(mine)})
    assert load_policy(system, {}).block == ("x",)


def test_the_machine_may_permit_the_variable(tmp_path: Path) -> None:
    system = write(tmp_path / "system.yaml", "permit_variable: true\nblock: [x]\n")
    mine = write(tmp_path / "mine.yaml", "block: [y]\n")
    assert load_policy(system, {"HFX_POLICY": str(mine)}).block == ("y",)


def test_a_policy_that_cannot_be_read_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "dangling.yaml").symlink_to(tmp_path / "gone.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for system in ("dangling.yaml", "folder.yaml"):
        with pytest.raises(ConfigError, match="cannot read"):
            load_policy(tmp_path / system, {})
    with pytest.raises(ConfigError, match="HFX_POLICY"):
        load_policy(tmp_path / "none", {"HFX_POLICY": str(tmp_path / "gone.yaml")})


# ── allow, block ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("block", "refused"),
    [
        ("hfx-fastlion", True),
        ("hfx_FastLion", True),
        ("hfx-*", True),
        ("lion", True),
        ("li*", True),
        ("lion@hfx-fastlion", True),
        ("@hfx-fastlion", True),
        ("lion@hfx", False),
        ("adamw@hfx-fastlion", False),
        ("hfx", False),
    ],
)
def test_block_means_distributions_and_names(block: str, refused: bool) -> None:
    assert bool(Policy(block=(block,)).refusal("lion", "hfx-fastlion")) is refused


@pytest.mark.parametrize(
    ("allow", "refused"),
    [
        ("hfx-fastlion", False),
        ("hfx-*", False),
        ("lion@hfx-*", False),
        ("lion", True),
        ("lion@hfx", True),
        ("hfx", True),
    ],
)
def test_allow_means_distributions_so_a_name_alone_lets_nobody_in(allow: str, refused: bool) -> None:
    assert bool(Policy(allow=(allow,)).refusal("lion", "hfx-fastlion")) is refused


def test_block_beats_allow() -> None:
    assert "blocked" in Policy(allow=("*",), block=("hfx-fastlion",)).refusal("lion", "hfx-fastlion")


def test_an_allow_list_lets_no_unregistered_class_in() -> None:
    assert Policy(allow=("*",)).refusal("mine", None)
    assert Policy().refusal("mine", None) == ""
    assert "blocked" in Policy(block=("mine",)).refusal("mine", None)


def test_an_empty_allow_list_lets_nobody_in() -> None:
    assert Policy(allow=()).permitted([ref()]) == []


# ── require ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("pattern", ["hfx-fastlion", "hfx_fastlion", "hfx-*"])
def test_a_distribution_needs_the_required_version(pattern: str) -> None:
    Policy(require={pattern: ">=1.2,<2"}).check_version(ref())
    Policy(require={"other-*": ">=9"}).check_version(ref())
    with pytest.raises(ConfigError, match=r">=2.*installed is 1\.5"):
        Policy(require={pattern: ">=2"}).check_version(ref())


def test_a_required_distribution_has_to_be_installed() -> None:
    Policy(require={"hfx": ">=0", "no-such-*": ">=1"}).check_required()
    with pytest.raises(ConfigError, match="'no-such-thing>=1', which is not installed"):
        Policy(require={"no-such-thing": ">=1"}).check_required()
    with pytest.raises(ConfigError, match="installed is"):
        Policy(require={"hfx": ">=999"}).check_required()


def test_a_version_that_is_no_specifier_is_refused() -> None:
    with pytest.raises(ConfigError, match="no version specifier"):
        Policy(require={"hfx": "latest"}).check_required()
