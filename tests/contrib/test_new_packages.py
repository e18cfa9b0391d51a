"""What `hfx plugins new` writes, for every hook: packages that are linted, typed and pass their own tests."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from command_line import environment, hfx
from hfx import hookspecs

HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("hfx_"))


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a new package for every hook, and in `site` the metadata that installing them leaves."""
    folder = tmp_path_factory.mktemp("new")
    for hook in HOOKS:
        name = f"my_{hook.removeprefix('hfx_')}"
        done = hfx("plugins", "new", name, "--hook", hook, "--path", str(folder))
        assert done.returncode == 0, done.stderr
        _install(folder / f"hfx-{name.replace('_', '-')}", folder / "site")
    return folder


def _install(package: Path, site: Path) -> None:
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = "".join(f"{name} = {value}\n" for name, value in project["entry-points"]["hfx"].items())
    (info / "entry_points.txt").write_text(f"[hfx]\n{points}")
    [source] = (package / "src").iterdir()
    (site / source.name).symlink_to(source)


def run(packages: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a module of Python's where the packages are installed."""
    environ = environment(packages / "site", OMP_NUM_THREADS="1")
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, env=environ, cwd=packages, capture_output=True, text=True, check=False)


def test_their_own_tests_pass(packages: Path) -> None:
    (packages / "pytest.ini").write_text("[pytest]\n")
    done = run(packages, "pytest", "-q", "-p", "no:cacheprovider", "--tb", "short", *map(str, packages.glob("hfx-*")))
    assert done.returncode == 0, done.stdout[-4000:]
    outcomes = dict(re.findall(r"(\d+) (\w+)", done.stdout.splitlines()[-1]))
    passed = int(next(count for count, word in outcomes.items() if word == "passed"))
    assert passed >= 5 * len(HOOKS)
    assert "skipped" not in outcomes.values()


def test_they_are_linted_and_formatted(packages: Path) -> None:
    rules = ["--isolated", "--line-length", "120"]
    sources = [str(path) for path in packages.glob("hfx-*")]
    for words in (["check", "--select", "E,F,W,I,UP,B,SIM,RUF,C4,N", *rules], ["format", "--check", *rules]):
        done = run(packages, "ruff", *words, *sources)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_they_are_typed(packages: Path) -> None:
    strict = ["--strict", "--ignore-missing-imports", "--follow-imports", "silent", "--config-file", "/dev/null"]
    done = run(packages, "mypy", *strict, *(str(path) for path in packages.glob("hfx-*/src/*")))
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("hook", [hook for hook in HOOKS if hook not in ("hfx_launch", "hfx_check")])
def test_a_new_plugin_takes_part_in_a_run(packages: Path, hook: str, tmp_path: Path) -> None:
    name = f"my_{hook.removeprefix('hfx_')}"
    small = ["--steps", "1", "--batch-size", "2", "--seq-length", "16", "--output", str(tmp_path / "run")]
    sizes = [] if hook == "hfx_model" else ["--scratch.hidden-size", "32", "--scratch.layers", "1"]
    sizes += [] if hook == "hfx_tokenizer" else ["--bpe.vocab-size", "260"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "to be or not to be"}\n{"text": "that is the question"}\n' * 20)
    data = [] if hook == "hfx_source" else ["--data", str(rows)]
    done = run(packages, "hfx", "train", "--plugin", name, *small, *sizes, *data)
    assert done.returncode == 0, done.stderr
    assert f"  {name}:" in (tmp_path / "run" / "run.yaml").read_text()
    assert (tmp_path / "run" / "checkpoints" / "step-00000001" / "MANIFEST.json").exists()
