"""What the README and the guide name: plugins and options that are there, commands that exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from functools import cache
from pathlib import Path

import pytest

from hfx.cli.app import COMMANDS
from hfx.cli.boundary import guarded
from hfx.config import RunConfig
from hfx.discovery import found

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md"] + [
    page for folder in ("", "guide", "tutorials") for page in sorted((ROOT / "docs" / folder).glob("*.md"))
]
WRONG_ON_PURPOSE = {"lino", "nope", "NAME", "no", "TECHNIQUE", "mine"}
"""Misspellings that a page shows the answer to, and words that stand for a name."""
MISSPELT = {"--lion.lrr"}
"""The same of options."""
LAUNCHERS = {"--nproc-per-node", "--nnodes"}


@cache
def options() -> dict[str, set[str]]:
    """Return the options of every built-in plugin, as they are typed."""
    loaded = {ref.name: ref.load() for ref in found() if ref.distribution == "hfx"}
    return {name: {key.replace("_", "-") for key in kind.model_fields} for name, kind in loaded.items()}


@cache
def of_packages() -> set[str]:
    """Return the plugins of `contrib/`, and of the packages that the pages themselves write."""
    names: set[str] = set()
    for project in (ROOT / "contrib").glob("*/pyproject.toml"):
        names |= set(tomllib.loads(project.read_text())["project"]["entry-points"]["hfx"])
    for page in PAGES:
        names |= set(re.findall(r"^(\w+) = \"[\w.]+:\w+\"", page.read_text(), re.MULTILINE))
        names |= set(re.findall(r"`(\w+) = \"[\w.]+:\w+\"`", page.read_text()))
        names |= set(re.findall(r"^\$ hfx plugins new (\w+)", page.read_text(), re.MULTILINE))
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_plugins_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(r"--plugin[ =](?:no:)?([A-Za-z_]\w*)", page.read_text())
    assert {name for name in named if name not in {*options(), *of_packages(), *WRONG_ON_PURPOSE}} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_options_of_plugins_that_a_page_names_are_there(page: Path) -> None:
    lost = set()
    for plugin, option in re.findall(r"--([a-z]\w*(?:-\w+)*)\.([a-z][\w-]*)", page.read_text()):
        name = plugin.replace("-", "_")
        if name not in {*of_packages(), *WRONG_ON_PURPOSE} and option.replace("_", "-") not in options().get(name, ()):
            lost.add(f"--{plugin}.{option}")
    assert lost <= MISSPELT


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_that_a_page_shows_exist(page: Path) -> None:
    shown = re.findall(r"^\$ (?:[A-Z_]+=\S+ )*hfx ([a-z-]+)", page.read_text(), re.MULTILINE)
    assert set(shown) <= COMMANDS.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_fields_of_a_run_that_a_page_types_exist(page: Path) -> None:
    flags = {f"--{name.replace('_', '-')}" for name in RunConfig.model_fields}
    own = {"--plugin", "--dry-run", "--help", "--traceback", "--output", "--resume", "--config"}
    for line in re.findall(r"^\$ hfx train (.*)", page.read_text(), re.MULTILINE):
        typed = set(re.findall(r"(?<!\S)(--[a-z][a-z-]*)(?=[ =]|$)", line))
        assert typed <= flags | own | LAUNCHERS, f"{page.name}: {line}"


def typed_of_coming_from() -> list[list[str]]:
    """Return what the page on other tools types, whose every option has a value, and the plugins that it needs."""
    page = (ROOT / "docs" / "guide" / "coming-from.md").read_text()
    found = []
    for span in re.findall(r"`(--[^`]+)`", page):
        words = ["256" if word == "N" else word for word in shlex.split(span)]
        named = [word for word in words if word.startswith("--")]
        if len(words) != 2 * len(named) or re.search(r"\b[A-Z]{2,}\b|--resume|--data", span):
            continue
        owners = {name[2:].split(".")[0].replace("-", "_") for name in named if "." in name}
        missing = owners - {value for name, value in zip(words[::2], words[1::2], strict=True) if name == "--plugin"}
        found.append(words + [word for owner in sorted(missing) for word in ("--plugin", owner)])
    return found


@pytest.mark.parametrize("words", typed_of_coming_from(), ids=" ".join)
def test_what_the_page_on_other_tools_types_is_taken(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run = ["--model", "base", "--data", "rows.jsonl", "--output", "runs/coming", "--eval-every", "10"]
    code = guarded(["train", *run, *words, "--dry-run"])
    said = capsys.readouterr().err
    assert code == 0 or "needs the package" in said or "needs a GPU" in said, said


def test_most_of_that_page_is_tried() -> None:
    assert len(typed_of_coming_from()) >= 35
