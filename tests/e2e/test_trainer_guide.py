"""The commands and scripts of the guide's page on the Trainer, as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hfx
from backend_cells import CELLS, config, folder_of_rows
from command_line import environment

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "trainer.md"
BLOCKS = re.findall(r"^```(console|python)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
IN_SHORT = "trainer_arguments("
"""What a block has that is run every time; the others take as long, and need not be."""


NAMES = f'hfx() {{ "{sys.executable}" -m hfx "$@"; }}\npython() {{ "{sys.executable}" "$@"; }}'
"""What a reader's shell finds, whichever environment the tests were started from."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder as the page says: rows, and a small model in `base`."""
    path: Path = folder_of_rows(tmp_path_factory.mktemp("guide"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("HFX_CACHE", str(path / "cache"))
        settings = config(CELLS["adamw"], "alone")
        settings["plugins"]["scratch"]["max_positions"] = 1024
        hfx.train(settings, output="first", steps=1)
        (path / "first" / "model").rename(path / "base")
        yield path


def cases() -> Iterator[object]:
    for number, (language, text) in enumerate(BLOCKS):
        marks = [] if IN_SHORT in text else [pytest.mark.slow]
        yield pytest.param(language, text, id=f"{number} {language}", marks=marks)


@pytest.mark.parametrize(("language", "text"), list(cases()))
def test_a_block_runs(language: str, text: str, folder: Path) -> None:
    if language == "python":
        command = [sys.executable, "-c", text]
    else:
        typed = re.sub(r"^\$ ", "", text, flags=re.MULTILINE)
        command = ["bash", "-ec", f"{NAMES}\n{typed}"]
    environ = environment(HFX_CACHE=str(folder / "cache"))
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if "stopped)" in text:
        assert done.stdout.splitlines()[-1] == "3 a callback asked for it"


def test_the_page_has_blocks_of_both_kinds() -> None:
    assert {language for language, _ in BLOCKS} == {"console", "python"}
    assert any(IN_SHORT in text for _, text in BLOCKS)
