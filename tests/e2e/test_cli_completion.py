"""Shells complete commands, plugins (without importing them), their options, and choices."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from command_line import SCRIPT, environment, hfx
from toy_packages import OPTIMIZER, toy_package

CHOICE = '''from typing import Literal

from hfx import Plugin


class Toy(Plugin):
    """Chooses."""

    flavour: Literal["sweet", "salty"] = "sweet"
    """Which."""
    strict: bool = False
    """Whether."""
'''


def completed(line: str, path: Path | None = None) -> set[str]:
    """Return what bash is offered at the end of a line, as whole or last pieces of words."""
    words = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_WORDS": line, "COMP_CWORD": "1"}
    done = hfx(path=path, _HFX_COMPLETE="bash_complete", **words)
    assert done.returncode == 0, done.stderr
    return {answer.partition(",")[2] for answer in done.stdout.splitlines() if answer}


def test_commands_are_completed() -> None:
    assert completed("hfx pl") == {"plan", "plugins"}
    assert completed("hfx plugins ") == {"show", "check", "new"}


def test_plugins_are_completed_without_importing_any(tmp_path: Path) -> None:
    toy_package(tmp_path, "hfx-broken", {"lioness": f"raise SystemExit(3)\n{OPTIMIZER}"})
    assert completed("hfx train --plugin lio", tmp_path) == {"lion", "lion_8bit", "lioness"}
    assert completed("hfx plugins show lio", tmp_path) == {"lion", "lion_8bit", "lioness"}


def test_namesakes_are_completed_with_their_packages(tmp_path: Path) -> None:
    toy_package(tmp_path, "hfx-fastlion", {"lion": OPTIMIZER})
    assert completed("hfx train --plugin lio", tmp_path) == {"lion@hfx", "lion@hfx-fastlion", "lion_8bit"}
    assert completed("hfx train --plugin lion@hfx-", tmp_path) == {"hfx-fastlion"}


def test_what_follows_no_is_completed_as_bash_cuts_it() -> None:
    assert completed("hfx train --plugin no:lio") == {"lion", "lion_8bit"}


def test_options_of_the_plugins_named_so_far_are_completed() -> None:
    assert completed("hfx train --plugin lion --lion.l") == {"--lion.lr"}
    assert "--lion.weight-decay" in completed("hfx train --plugin=lion --")
    assert "--lion.lr" not in completed("hfx train --")
    assert "--batch-size" in completed("hfx train --b")
    assert completed("hfx config show --plugin lion --lion.l") == {"--lion.lr"}


def test_choices_are_completed(tmp_path: Path) -> None:
    toy_package(tmp_path, "hfx-choice", {"choice": CHOICE})
    assert completed("hfx train --plugin choice --choice.flavour s", tmp_path) == {"sweet", "salty"}
    assert completed("hfx train --choice.flavour=sa", tmp_path) == {"salty"}
    assert completed("hfx train --choice.strict ", tmp_path) == {"true", "false"}
    assert completed("hfx completion ") == {"bash", "zsh", "fish"}


def test_a_plugin_that_cannot_be_imported_completes_nothing(tmp_path: Path) -> None:
    toy_package(tmp_path, "hfx-broken", {"broken": f"raise RuntimeError\n{OPTIMIZER}"})
    assert completed("hfx train --plugin broken --broken.", tmp_path) == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script(shell: str) -> None:
    done = hfx("completion", shell)
    assert done.returncode == 0
    assert f"_HFX_COMPLETE={shell}_complete" in done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_itself_completes_a_plugin(tmp_path: Path) -> None:
    script = tmp_path / "hfx.bash"
    script.write_text(hfx("completion", "bash").stdout)
    folder = Path(SCRIPT[0]).parent
    program = (
        f"PATH={folder}:$PATH; source {script}; COMP_WORDS=(hfx train --plugin no : adaf); COMP_CWORD=5;"
        "COMP_LINE='hfx train --plugin no:adaf'; COMP_POINT=${#COMP_LINE};"
        '_hfx_completion hfx; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", program], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "adafactor\n"
