"""`hfx plugins`: the list, one plugin, and a new package that works."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from command_line import environment, hfx
from hfx import hookspecs
from hfx.cli.plugins_new import hooks
from toy_packages import OPTIMIZER, toy_package

HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("hfx_"))


def test_the_list_says_name_role_default_package_and_summary() -> None:
    lines = hfx("plugins").stdout.splitlines()
    assert lines[0].split() == ["NAME", "ROLE", "DEFAULT", "PACKAGE", "SUMMARY"]
    rows = {line.split()[0]: line for line in lines[1:]}
    assert rows["adamw"].split()[1:4] == ["optimizer", "yes", "hfx"]
    assert rows["lion"].split()[1:3] == ["optimizer", "hfx"]
    assert "Sign of the momentum" in rows["lion"]
    assert "without a model" in rows["scratch"]
    assert "wraps model" in rows["gradient_checkpointing"]
    assert rows["progress"].split()[1] == "listens"


def test_a_namesake_of_a_default_is_not_active_by_default(tmp_path: Path) -> None:
    toy_package(tmp_path, "hfx-fast", {"adamw": OPTIMIZER})
    listed = json.loads(hfx("plugins", "--json", path=tmp_path).stdout)
    defaults = {line["distribution"]: line["default"] for line in listed if line["name"] == "adamw"}
    assert defaults == {"hfx": "yes", "hfx-fast": ""}


def test_the_policy_decides_what_the_list_calls_default(tmp_path: Path) -> None:
    toy_package(tmp_path, "hfx-fast", {"adamw": OPTIMIZER, "extra": OPTIMIZER})
    (tmp_path / "policy.yaml").write_text(
        "prefer: {adamw: hfx-fast}\nblock: [lion]\nactivate: [gradient_checkpointing]\nroles: {schedule: linear}\n"
    )
    done = hfx("plugins", "--json", path=tmp_path, HFX_POLICY=str(tmp_path / "policy.yaml"))
    listed = {f"{line['name']}@{line['distribution']}": line["default"] for line in json.loads(done.stdout)}
    assert listed["adamw@hfx"] == ""
    assert listed["adamw@hfx-fast"] == "yes"
    assert listed["lion@hfx"] == "blocked"
    assert listed["gradient_checkpointing@hfx"] == "policy"
    assert listed["linear@hfx"] == "yes"
    assert listed["cosine@hfx"] == ""
    assert listed["extra@hfx-fast"] == ""


def test_show_tells_options_hooks_and_file() -> None:
    shown = hfx("plugins", "show", "lion").stdout
    lines = [line.split() for line in shown.splitlines()]
    assert ["hook", "hfx_optimizer"] in lines
    option = next(line for line in lines if line[:1] == ["--lion.weight-decay"])
    assert option[1:5] == ["float", ">=", "0", "0.1"]
    assert "plugins/hfx_plugins/optimizers/lion.py" in shown


MARK = 'unverified: ClassVar[str] = "no such device was at hand"'
UNVERIFIED = "from typing import ClassVar\n\n" + OPTIMIZER.replace("    lr: float", f"    {MARK}\n    lr: float")


def test_what_nobody_has_seen_at_work_is_said_in_lists_and_before_runs(tmp_path: Path) -> None:
    toy_package(tmp_path, "hfx-fast", {"fast": UNVERIFIED})
    [line] = [row for row in hfx("plugins", path=tmp_path).stdout.splitlines() if row.startswith("fast ")]
    assert "(unverified) A toy optimizer." in line
    assert "no such device was at hand" in hfx("plugins", "show", "fast", path=tmp_path).stdout
    done = hfx("train", "--plugin", "fast", "--dry-run", path=tmp_path)
    assert "'fast' is unverified: no such device was at hand" in done.stdout


def test_show_marks_wrappers_and_says_when_there_are_no_options() -> None:
    assert "hfx_model (wrapper)" in hfx("plugins", "show", "gradient_checkpointing").stdout
    assert "no options" in hfx("plugins", "show", "shuffle").stdout


def test_show_asks_which_of_two_namesakes(tmp_path: Path) -> None:
    toy_package(tmp_path, "hfx-fastlion", {"lion": OPTIMIZER})
    asked = hfx("plugins", "show", "lion", path=tmp_path)
    assert asked.returncode == 2
    assert "lion@hfx-fastlion" in asked.stderr
    assert "A toy optimizer." in hfx("plugins", "show", "lion@hfx-fastlion", path=tmp_path).stdout


def test_every_hook_has_a_template() -> None:
    assert hooks() == HOOKS


def made(folder: Path, hook: str) -> tuple[Path, str]:
    """Make a package for a hook; return its folder and its plugin's name."""
    name = f"my_{hook.removeprefix('hfx_')}"
    done = hfx("plugins", "new", name.replace("_", "-"), "--hook", hook, "--path", str(folder))
    assert done.returncode == 0, done.stderr
    return folder / f"hfx-{name.replace('_', '-')}", name


@pytest.mark.parametrize("hook", HOOKS)
def test_a_new_package_is_whole_and_its_plugin_is_taken(hook: str, tmp_path: Path) -> None:
    package, name = made(tmp_path, hook)
    files = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}
    module = f"hfx_{name}"
    assert files == {
        "pyproject.toml", "README.md", "LICENSE", ".gitignore", f"tests/test_{name}.py",
        f"src/{module}/__init__.py", f"src/{module}/{name}.py", f"src/{module}/py.typed",
    }  # fmt: skip
    project = tomllib.loads((package / "pyproject.toml").read_text())
    [(entry, value)] = project["project"]["entry-points"]["hfx"].items()
    assert entry == name
    install(package / "src", project["project"]["name"], f"{entry} = {value}")
    done = hfx("train", "--plugin", name, "--dry-run", path=package / "src")
    assert done.returncode == 0, done.stderr
    assert f"--plugin {name}" in done.stdout
    assert hook in hfx("plugins", "show", name, path=package / "src").stdout


def install(folder: Path, distribution: str, entry: str) -> None:
    """Write the metadata that an editable install of the package would leave."""
    info = folder / f"{distribution.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[hfx]\n{entry}\n")


def test_new_packages_are_formatted_and_linted(tmp_path: Path) -> None:
    for hook in HOOKS:
        made(tmp_path, hook)
    for words in (["check", "--select", "E,F,I,UP,B,N"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *words, "--isolated", "--line-length", "120", str(tmp_path)]
        done = subprocess.run(ruff, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_new_refuses_what_exists_and_leaves_it_alone(tmp_path: Path) -> None:
    (tmp_path / "hfx-signum").mkdir()
    done = hfx("plugins", "new", "signum", "--hook", "hfx_optimizer", "--path", str(tmp_path))
    assert done.returncode == 2
    assert "exists" in done.stderr
    assert list((tmp_path / "hfx-signum").iterdir()) == []


@pytest.mark.parametrize("name", ["Lion", "2fast", "my plugin", "lambda", "run", "a__b", "../up", "no:lion", ""])
def test_new_refuses_bad_names_and_writes_nothing(name: str, tmp_path: Path) -> None:
    done = hfx("plugins", "new", "--hook", "hfx_optimizer", "--path", str(tmp_path), "--", name)
    assert done.returncode == 2
    assert "is no name for a plugin" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_new_names_the_nearest_hook(tmp_path: Path) -> None:
    done = hfx("plugins", "new", "signum", "--hook", "hfx_optimiser", "--path", str(tmp_path))
    assert done.returncode == 2
    assert "did you mean 'hfx_optimizer'?" in done.stderr


def test_check_passes_a_good_plugin_and_counts() -> None:
    done = hfx("plugins", "check", "sequential", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    passed = [line for line in done.stdout.splitlines() if line.startswith("pass  ")]
    assert f"{len(passed)} of {len(passed)} checks passed" in done.stdout


def test_check_names_what_a_bad_plugin_fails_and_exits_with_1(tmp_path: Path) -> None:
    undocumented = OPTIMIZER.replace('    """Learning rate."""\n', "")
    toy_package(tmp_path, "hfx-bad", {"bad": undocumented})
    done = hfx("plugins", "check", "bad", path=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 1
    assert "FAIL  plugin: every option is documented" in done.stdout
    assert "Traceback" not in done.stderr
