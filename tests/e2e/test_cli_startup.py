"""The command line starts in a blink, whatever is installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from command_line import SCRIPT, hfx, imported_by, shortest
from toy_packages import LISTENER, OPTIMIZER, WRAPPER, toy_package

HEAVY = {"pydantic", "torch", "transformers", "datasets", "accelerate", "rich", "hfx_plugins"}
PASS = (sys.executable, "-c", "pass")
CALLS = [(("--help",), 8), (("plugins",), 20)]


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with twenty packages, one that sleeps and one that raises when it is imported."""
    folder = tmp_path_factory.mktemp("crowded")
    for number in range(18):
        source = (OPTIMIZER, LISTENER, WRAPPER)[number % 3]
        toy_package(folder, f"hfx-toy-{number}", {f"toy_{number}": source})
    toy_package(folder, "hfx-slow", {"slow": f"import time\n\ntime.sleep(5)\n{OPTIMIZER}"})
    toy_package(folder, "hfx-broken", {"broken": f"raise RuntimeError('boom')\n{LISTENER}"})
    return folder


@pytest.mark.parametrize("arguments", [call for call, _ in CALLS], ids=" ".join)
def test_nothing_heavy_is_imported(arguments: tuple[str, ...], crowded: Path) -> None:
    assert HEAVY.isdisjoint(imported_by(*arguments))
    modules = imported_by(*arguments, path=crowded)
    assert HEAVY.isdisjoint(modules)
    assert not [name for name in modules if name.startswith("toy_")]


def test_help_imports_no_command() -> None:
    assert "hfx.cli.train" not in imported_by("--help")


def test_resolving_a_run_imports_no_torch() -> None:
    modules = imported_by("train", "--plugin", "lion", "--dry-run")
    assert "hfx_plugins.optimizers.lion" in modules
    assert {"torch", "transformers", "datasets", "numpy"}.isdisjoint(modules)


@pytest.mark.parametrize(("arguments", "times"), CALLS, ids=["help", "plugins"])
@pytest.mark.parametrize("others", [False, True], ids=["alone", "with twenty packages"])
def test_it_takes_few_times_what_python_takes(
    arguments: tuple[str, ...], times: int, others: bool, crowded: Path
) -> None:
    path = crowded if others else None
    ratios = []
    for _ in range(5):  # the machine may be busy: one quiet moment is enough
        ratios.append(shortest([*SCRIPT, *arguments], path) / shortest(PASS))
        if ratios[-1] <= times:
            return
    pytest.fail(f"{ratios} times `python -c pass`, at most {times} allowed")


def test_all_twenty_are_listed_with_role_and_summary(crowded: Path) -> None:
    listed = {line["name"]: line for line in json.loads(hfx("plugins", "--json", path=crowded).stdout)}
    assert listed["slow"]["role"] == "optimizer"
    assert listed["broken"]["role"] == "listens"
    assert listed["toy_2"]["role"] == "wraps model"
    assert listed["toy_0"]["summary"] == "A toy optimizer."
    assert not any(listed[f"toy_{number}"]["default"] for number in range(18))


def test_a_package_nobody_named_changes_no_run(crowded: Path) -> None:
    assert hfx("train", "--dry-run", path=crowded).stdout == hfx("train", "--dry-run").stdout


def test_the_version_is_the_distributions() -> None:
    from importlib.metadata import version

    assert hfx("--version", command=SCRIPT).stdout == f"hfx {version('hfx')}\n"
