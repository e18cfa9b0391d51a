"""hfx as a wheel in an environment of its own, with the packages of `contrib/` installed beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONTRIB = ("hfx-example", "hfx-acme", "hfx-slurm", "hfx-ray", "hfx-lm-eval")
PACKAGES = {"hfx": ROOT} | {name: ROOT / "contrib" / name for name in CONTRIB}
SMALL = [
    "--batch-size", "4", "--seq-length", "32", "--bpe.vocab-size", "300",
    "--scratch.hidden-size", "32", "--scratch.layers", "2", "--plugin", "fp32",
]  # fmt: skip


def run(*command: str | Path, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command that knows nothing of this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HFX_", "PYTHON"))}
    environ = {**kept, "HFX_CACHE": str(cwd / "cache"), "OMP_NUM_THREADS": "1", **environ}
    return subprocess.run([*map(str, command)], cwd=cwd, env=environ, capture_output=True, text=True, check=False)


def done(*command: str | Path, cwd: Path, **environ: str) -> str:
    """Run a command that has to succeed; return what it prints."""
    finished = run(*command, cwd=cwd, **environ)
    assert finished.returncode == 0, f"{finished.stdout}\n{finished.stderr}"
    return finished.stdout


@pytest.fixture(scope="module")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of executables of an environment with the wheels; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("clean")
    for path in PACKAGES.values():
        done(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", path, cwd=folder)
    venv.create(folder / "venv", symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    # What the packages depend on is taken from this environment; a `.pth` of a `.pth` is not read, so its own
    # editable hfx is not.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "venv/bin/python"
    wheels = sorted((folder / "dist").glob("*.whl"))
    pip = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index"]
    done(python, *pip, "--ignore-installed", *wheels, cwd=folder)
    return folder / "venv/bin"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with rows to train on."""
    rows = [{"text": f"{number} and {number + 1} are neighbours"} for number in range(80)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_hfx_is_the_one_of_the_wheel(binaries: Path, folder: Path) -> None:
    code = "import hfx, hfx_plugins; print(hfx.__file__, hfx_plugins.__file__)"
    places = done(binaries / "python", "-c", code, cwd=folder).split()
    assert [Path(place).is_relative_to(binaries.parent) for place in places] == [True, True]


def test_the_wheel_has_everything_that_is_no_python(binaries: Path, folder: Path) -> None:
    done(binaries / "hfx", "plugins", "new", "signum", "--hook", "hfx_optimizer", cwd=folder)
    assert (folder / "hfx-signum/pyproject.toml").exists()
    done(
        binaries / "python",
        "-c",
        "import importlib.resources as r; (r.files('hfx') / 'py.typed').read_text()",
        cwd=folder,
    )


def test_the_list_has_the_plugins_of_all(binaries: Path, folder: Path) -> None:
    listed = json.loads(done(binaries / "hfx", "plugins", "--json", cwd=folder))
    found = {line["name"]: line["distribution"] for line in listed}
    assert found["lookahead"] == found["target_loss"] == "hfx-example"
    assert found["audit"] == found["acme_docs"] == "hfx-acme"
    assert (found["slurm"], found["ray"]) == ("hfx-slurm", "hfx-ray")
    assert found["lm_eval"] == "hfx-lm-eval"
    assert found["adamw"] == "hfx"
    assert len(found) == len(listed)


def test_it_trains_with_the_plugins_of_hfx_example(binaries: Path, folder: Path) -> None:
    words = ["--plugin", "lookahead", "--plugin", "target_loss", "--target-loss.loss", "50", "--steps", "9"]
    done(binaries / "hfx", "train", "--data", "rows.jsonl", "--output", "run", *SMALL, *words, cwd=folder)
    steps = [json.loads(line)["step"] for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    assert max(steps) < 9


def test_it_trains_with_the_plugins_of_hfx_acme_under_its_policy(binaries: Path, folder: Path) -> None:
    policy = done(binaries / "python", "-m", "hfx_acme", cwd=folder)
    (folder / "policy.yaml").write_text(policy.replace("/var/log/hfx/audit.jsonl", str(folder / "audit.jsonl")))
    store = (
        "import sqlite3; c = sqlite3.connect('acme.db'); c.execute('create table documents (id integer, body text)'); "
    )
    store += (
        "c.executemany('insert into documents values (?, ?)', [(n, f'document {n}') for n in range(80)]); c.commit()"
    )
    done(binaries / "python", "-c", store, cwd=folder)
    words = [
        "--plugin",
        "acme_docs",
        "--acme-docs.database",
        "acme.db",
        "--plugin",
        "target_loss",
        "--target-loss.loss",
        "50",
    ]
    done(
        binaries / "hfx",
        "train",
        "--output",
        "run",
        "--steps",
        "9",
        *SMALL,
        *words,
        cwd=folder,
        HFX_POLICY="policy.yaml",
    )
    [line] = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
    assert line["outcome"].startswith("stopped: target_loss")
    assert line["plugins"]["target_loss"].startswith("hfx-example ")


@pytest.mark.parametrize("package", CONTRIB)
def test_the_tests_of_the_package_pass(binaries: Path, folder: Path, package: str) -> None:
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "tests").symlink_to(PACKAGES[package] / "tests")
    told = done(binaries / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=folder)
    assert " passed" in told.splitlines()[-1]
    assert "skipped" not in told.splitlines()[-1]
