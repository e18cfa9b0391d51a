"""The guide's examples, taken from its pages: packages, policies and outputs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from command_line import hfx
from hfx.policy import Policy, read_policy
from toy_packages import LISTENER, OPTIMIZER, toy_package

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guide"


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def plugins_in(page: Path) -> list[str]:
    """Return the blocks that define a plugin."""
    return [block for block in blocks(page, "python") if "(Plugin):" in block]


# ── writing a plugin ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The guide's first plugin, installed."""
    page = GUIDE / "writing-a-plugin.md"
    project = tomllib.loads(blocks(page, "toml")[0])["project"]
    [(name, value)] = project["entry-points"]["hfx"].items()
    info = tmp_path / "site" / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    (info / "entry_points.txt").write_text(f"[hfx]\n{name} = {value}\n")
    (tmp_path / "site" / f"{value.partition(':')[0]}.py").write_text(plugins_in(page)[0])
    return tmp_path / "site"


def test_the_plugin_of_the_guide_has_about_fifteen_lines() -> None:
    assert len(plugins_in(GUIDE / "writing-a-plugin.md")[0].strip().splitlines()) <= 16


def test_every_plugin_of_the_readme_is_one_of_the_guide() -> None:
    assert set(plugins_in(ROOT / "README.md")) <= set(plugins_in(GUIDE / "writing-a-plugin.md"))


def test_the_plugin_of_the_guide_is_shown_conforms_and_trains(site: Path, tmp_path: Path) -> None:
    shown = hfx("plugins", "show", "momentum", path=site)
    assert "--momentum.lr" in shown.stdout, shown.stderr
    checked = hfx("plugins", "check", "momentum", path=site)
    assert checked.returncode == 0, checked.stdout
    (tmp_path / "rows.jsonl").write_text('{"text": "to be or not to be"}\n{"text": "that is the question"}\n' * 20)
    words = ["--data", "rows.jsonl", "--output", "run", "--steps", "2", "--seq-length", "16", "--bpe.vocab-size", "260"]
    trained = hfx("train", "--plugin", "momentum", "--momentum.lr", "0.05", *words, path=site, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["plugins"]["momentum"] == {"lr": 0.05}


# ── for a company ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def company(tmp_path: Path) -> Path:
    """A folder with the guide's policy, and in `site` the packages that it names."""
    (tmp_path / "policy.yaml").write_text(blocks(GUIDE / "enterprise.md", "yaml")[0])
    toy_package(tmp_path / "site", "acme-train", {"audit": LISTENER}, version="1.3")
    toy_package(tmp_path / "site", "acme-lion", {"lion": OPTIMIZER})
    return tmp_path


def test_the_policy_of_the_guide_has_every_key(company: Path) -> None:
    read_policy(company / "policy.yaml")
    text = (GUIDE / "enterprise.md").read_text()
    internal = {"path", "origins"}
    for key in sorted(Policy.__dataclass_fields__.keys() - internal):
        assert f"`{key}`" in text or f"`{key}: true`" in text, f"the guide does not explain '{key}'"


def test_what_users_see_is_what_the_guide_prints(company: Path) -> None:
    [session] = [block for block in blocks(GUIDE / "enterprise.md", "console") if "hfx: " in block]
    pairs = re.findall(r"^\$ hfx (.*)\n(hfx: .*)\n", session, re.MULTILINE)
    assert len(pairs) == session.count("$ ") == 2
    for words, expected in pairs:
        done = hfx(*words.split(), path=company / "site", cwd=company, HFX_POLICY="policy.yaml")
        assert (done.returncode, done.stderr.strip()) == (2, expected)


def test_the_policy_of_the_guide_lets_a_run_through(company: Path) -> None:
    done = hfx("train", "--plugin", "lion", "--dry-run", path=company / "site", cwd=company, HFX_POLICY="policy.yaml")
    assert done.returncode == 0, done.stderr
    told = [line.split() for line in done.stdout.splitlines()]
    assert ["optimizer", "lion", "acme-lion", "1.0"] in [line[:4] for line in told]
    assert ["schedule", "linear"] in [line[:2] for line in told]
    [seed] = [line for line in done.stdout.splitlines() if "seed " in line]
    assert "policy.yaml:12" in seed
