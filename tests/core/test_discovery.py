from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from hfx.discovery import PluginRef, describe, found, install_hint, pick
from hfx.errors import PluginError, PluginNotFound
from hfx.hookspecs import LISTENERS
from hfx.implementations import implementations
from hfx.manifest import LISTENERS as LISTENERS_AS_TEXT
from hfx.manifest import UNKNOWN
from toy_packages import LISTENER, OPTIMIZER, WRAPPER, toy_package


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def named(name: str, distribution: str | None = None) -> PluginRef:
    return next(r for r in found() if r.name == name and (distribution is None or r.distribution == distribution))


def ref(name: str, distribution: str) -> PluginRef:
    return PluginRef(name, distribution, "1.0", "nowhere:Toy")


# ── found ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_installed_plugin_is_found_with_its_package_and_version(site: Path) -> None:
    modules = toy_package(site, "hfx-toys", {"toy_opt": OPTIMIZER}, version="1.2.3")
    toy = named("toy_opt")
    assert (toy.distribution, toy.version, toy.module, toy.attribute) == (
        "hfx-toys",
        "1.2.3",
        modules["toy_opt"],
        "Toy",
    )


def test_found_is_sorted_and_names_every_built_in_plugin_once(site: Path) -> None:
    names = [r.name for r in found() if r.distribution == "hfx"]
    assert names == sorted(set(names))
    assert {"lion", "adamw", "loop", "files"} <= set(names)


def test_listing_imports_no_plugin_and_no_pydantic(site: Path) -> None:
    loud = "raise RuntimeError('imported')\n" + OPTIMIZER
    toy_package(site, "hfx-loud", {"loud": loud})
    code = (
        "import sys; from hfx.discovery import found, describe; import hfx.policy\n"
        "names = {ref.name: describe(ref) for ref in found()}\n"
        "assert names['loud'].roles == ('optimizer',), names['loud']\n"
        "bad = {'pydantic', 'torch', 'hfx_plugins', 'pluggy'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(site)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_listing_fifty_plugins_takes_well_under_a_tenth_of_a_second(site: Path) -> None:
    toy_package(site, "hfx-many", {f"toy_{n}": OPTIMIZER for n in range(30)})
    took = min(_time_listing() for _ in range(3))
    assert took < 0.1


def _time_listing() -> float:
    start = time.process_time()
    assert len([describe(r) for r in found()]) > 50
    return time.process_time() - start


# ── describe ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("source", "roles", "wraps", "listens"),
    [
        (OPTIMIZER, ("optimizer",), (), ()),
        (WRAPPER, (), ("model",), ()),
        (LISTENER, (), (), ("saved",)),
        (OPTIMIZER.replace("@hookimpl", "@hookimpl(trylast=True)"), ("optimizer",), (), ()),
    ],
)
def test_the_source_tells_roles_wrappers_and_listeners(
    site: Path, source: str, roles: tuple[str, ...], wraps: tuple[str, ...], listens: tuple[str, ...]
) -> None:
    toy_package(site, "hfx-toys", {"told": source})
    description = describe(named("told"))
    assert (description.roles, description.wraps, description.listens) == (roles, wraps, listens)


def test_the_summary_is_the_first_sentence_and_options_are_the_fields(site: Path) -> None:
    toy_package(site, "hfx-toys", {"summed": OPTIMIZER})
    description = describe(named("summed"))
    assert description.summary == "A toy optimizer."
    assert description.options == ("lr",)


def test_a_mark_that_is_computed_is_read_as_a_mark_and_nothing_runs(site: Path) -> None:
    for name, value in (("written", '"no device"'), ("computed", "WHY")):
        code = OPTIMIZER.replace("    lr: float", f"    unverified: str = {value}\n    lr: float")
        toy_package(site, f"hfx-{name}", {name: code})
    assert [describe(named(name)).unverified for name in ("written", "computed", "lion")] == ["no device", "?", ""]


def test_hooks_of_a_base_class_in_another_file_are_found(site: Path) -> None:
    base = OPTIMIZER.replace("class Toy", "class Base")
    modules = toy_package(site, "hfx-bases", {"base": base})
    package = modules["base"].partition(".")[0]
    child = f"from {package}.base import Base as Parent\n\n\nclass Toy(Parent):\n    momentum: float = 0.9\n"
    relative = child.replace(f"{package}.base", "." + "base")
    toy_package(site, "hfx-children", {"child": child})
    (site / package / "near.py").write_text(relative)
    near = PluginRef("near", "hfx-bases", "1.0", f"{package}.near:Toy")
    for description in (describe(named("child")), describe(near)):
        assert description.roles == ("optimizer",)
        assert description.options == ("lr", "momentum")
        assert description.summary == "A toy optimizer."


def test_a_class_that_its_package_re_exports_is_found(site: Path) -> None:
    modules = toy_package(site, "hfx-again", {"inner": OPTIMIZER})
    package = modules["inner"].partition(".")[0]
    (site / package / "__init__.py").write_text("from .inner import Toy as Shown\n")
    assert describe(PluginRef("again", "hfx-again", "1.0", f"{package}:Shown")).roles == ("optimizer",)


@pytest.mark.parametrize("value", ["nowhere.at_all:Toy", "math:Toy", "json:Missing", "hfx.plugin:reveal"])
def test_what_cannot_be_read_is_shown_as_unknown(value: str) -> None:
    assert describe(PluginRef("odd", "odd", "1", value)) == UNKNOWN


def test_a_file_with_a_syntax_error_is_shown_as_unknown(site: Path) -> None:
    toy_package(site, "hfx-broken", {"broken": "class Toy(:\n"})
    assert describe(named("broken")) == UNKNOWN


def test_every_built_in_plugin_reads_the_same_as_text_and_as_a_class() -> None:
    for entry in (r for r in found() if r.distribution == "hfx"):
        described, real = describe(entry), implementations(entry.load())
        plain = {hook.removeprefix("hfx_") for hook, found_hook in real.items() if not found_hook.wrapper}
        assert set(described.roles) | set(described.listens) == plain, entry
        assert set(described.options) == set(entry.load().model_fields), entry
        assert described.summary.endswith("."), entry


def test_the_listeners_known_as_text_are_those_of_the_hook_specifications() -> None:
    assert tuple(f"hfx_{name}" for name in LISTENERS_AS_TEXT) == LISTENERS


# ── load ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_plugin_that_raises_while_imported_is_named_in_one_line(site: Path) -> None:
    modules = toy_package(site, "hfx-bad", {"bad": "raise RuntimeError('first\\nsecond')\n"})
    with pytest.raises(PluginError) as caught:
        named("bad").load()
    text = str(caught.value)
    assert "\n" not in text
    for part in ("'bad'", "'hfx-bad'", modules["bad"], "RuntimeError", "first second"):
        assert part in text


def test_a_plugin_that_exits_while_imported_does_not_end_hfx(site: Path) -> None:
    toy_package(site, "hfx-exit", {"leaver": "raise SystemExit(0)\n"})
    with pytest.raises(PluginError, match="SystemExit"):
        named("leaver").load()


def test_a_missing_extra_is_answered_with_what_to_install(site: Path) -> None:
    toy_package(
        site, "hfx-extra", {"lacking": "import fast_thing\n"}, requires=["fast-thing>=1 ; extra == 'fast'", "numpy"]
    )
    with pytest.raises(PluginNotFound, match=r"pip install 'hfx-extra\[fast\]'"):
        named("lacking").load()
    assert install_hint("hfx-extra", "numpy") == ""
    assert install_hint("", "numpy") == install_hint("no-such-dist", "numpy") == ""


@pytest.mark.parametrize("source", ["Toy = 3\n", "class Toy: ...\n", "class Other: ...\n"])
def test_an_entry_point_that_is_no_plugin_is_refused(site: Path, source: str) -> None:
    toy_package(site, "hfx-none", {"none": source})
    with pytest.raises(PluginNotFound, match=r"not a subclass of hfx\.Plugin"):
        named("none").load()


# ── pick ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

TWO = [ref("lion", "hfx"), ref("lion", "hfx-fastlion"), ref("adamw", "hfx"), ref("model_tokenizer", "hfx")]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(PluginNotFound, match="did you mean 'lion'"):
        pick("lino", TWO)


def test_a_typed_name_that_two_packages_offer_prints_both_choices() -> None:
    with pytest.raises(PluginNotFound, match="'lion@hfx' or 'lion@hfx-fastlion'"):
        pick("lion", TWO)


def test_the_table_of_defaults_means_the_plugins_of_hfx() -> None:
    assert pick("lion", TWO, typed=False).distribution == "hfx"


def test_a_stranger_never_stands_in_for_a_default() -> None:
    with pytest.raises(PluginNotFound, match="the default 'adamw' of 'hfx' is not installed"):
        pick("adamw", [ref("adamw", "evil")], typed=False)


@pytest.mark.parametrize(
    ("text", "prefer", "typed", "distribution"),
    [
        ("lion@hfx-fastlion", {}, True, "hfx-fastlion"),
        ("lion@HFX_FastLion", {}, True, "hfx-fastlion"),
        ("lion", {"lion": "hfx-fastlion"}, True, "hfx-fastlion"),
        ("lion", {"lion": "hfx-fastlion"}, False, "hfx-fastlion"),
        ("lion@hfx", {"lion": "hfx-fastlion"}, True, "hfx"),
        ("adamw", {"adamw": "absent"}, True, "hfx"),
        ("model-tokenizer", {}, True, "hfx"),
    ],
)
def test_the_distribution_beats_prefer_and_prefer_decides(
    text: str, prefer: Mapping[str, str], typed: bool, distribution: str
) -> None:
    assert pick(text, TWO, prefer, typed).distribution == distribution


def test_a_distribution_that_does_not_offer_the_name_says_who_does() -> None:
    with pytest.raises(PluginNotFound, match="'other' offers no plugin 'lion'; choose 'lion@hfx'"):
        pick("lion@other", TWO)
