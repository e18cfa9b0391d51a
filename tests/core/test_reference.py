"""The reference pages are those of the code, and what they tell a reader to type works."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hfx.plugin import Plugin
from hfx.policy import Policy
from hfx.resolve import Resolved, resolve

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page for page in (DOCS / "reference" / "plugins").glob("*.md") if page.stem != "index")


def write(docs: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(docs / "reference.py"), *flags]
    return subprocess.run(command, text=True, capture_output=True, timeout=60, check=False)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("__pycache__")))


def test_no_reference_page_is_stale() -> None:
    done = write(DOCS, "--check")
    assert done.returncode == 0, done.stderr


def test_a_changed_a_missing_and_a_left_over_page_are_stale_until_they_are_written_anew(copied: Path) -> None:
    reference = copied / "reference"
    (reference / "hooks.md").write_text("# Hooks of long ago\n")
    (reference / "plugins" / "lion.md").unlink()
    (reference / "plugins" / "gone.md").write_text("# gone\n")
    checked = write(copied, "--check")
    assert checked.returncode == 1
    assert re.findall(r"reference/(\S+) is stale", checked.stderr) == ["hooks.md", "plugins/gone.md", "plugins/lion.md"]
    assert write(copied).returncode == 0
    assert write(copied, "--check").returncode == 0


def example(page: Path, language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no {language} example"
    return found[1]


def from_command(text: str) -> Resolved:
    words = shlex.split(text.removeprefix("$ hfx train"))
    given = dict(zip(words[::2], words[1::2], strict=True))
    plugin = given.pop("--plugin")
    options = [(key.removeprefix("--"), value) for key, value in given.items() if "." in key]
    fields = {key.removeprefix("--"): value for key, value in given.items() if "." not in key}
    return without_the_demo(fields=fields, plugin_args=[plugin], plugin_options=options)


def without_the_demo(fields: dict[str, str], **words: Any) -> Resolved:
    """Resolve with some data given, else the demo recipe would be a layer below the example."""
    return resolve(fields={"data": "rows.jsonl"} | fields, policy=Policy(), **words)


def from_python(text: str) -> Plugin:
    """Return the plugin of the example's `hfx.train(plugins=[...])`, which is not called."""
    tree = ast.parse(text)
    call = tree.body.pop()
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    names: dict[str, object] = {}
    exec(compile(tree, "example", "exec"), names)  # noqa: S102
    plugins = next(keyword.value for keyword in call.value.keywords if keyword.arg == "plugins")
    return eval(ast.unparse(plugins), names)[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_three_examples_of_a_plugin_mean_the_same(page: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(example(page, "yaml"))
    typed = from_command(example(page, "console"))
    written = without_the_demo(fields={}, yaml_path=config)
    options = [
        next(active.plugin for active in resolved.plugins if active.name == page.stem).options()
        for resolved in (typed, written)
    ]
    assert options[0] == options[1] == from_python(example(page, "python")).options()
    assert typed.config == written.config
