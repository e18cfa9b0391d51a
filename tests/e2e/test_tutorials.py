"""The tutorials, followed literally from an empty folder: every command works, and prints what the page shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tutorials import CHAT, ENCODER, Step, follow, not_printed, steps

PAGES = sorted((Path(__file__).parents[2] / "docs" / "tutorials").glob("*.md"))
IN_SHORT = "company"
"""The page that is followed every time; the others take up to two minutes each."""


@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.stem, marks=[pytest.mark.slow] * (page.stem != IN_SHORT)) for page in PAGES]
)
def test_a_page_can_be_followed(page: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    folder.mkdir()
    for step, code, printed in follow(page, folder, _models(page, tmp_path)):
        assert bool(code) == step.fails, f"exit code {code}: {step.text}\n{printed}"
        assert not not_printed(step, printed), f"{not_printed(step, printed)} of: {step.text}\n{printed}"


def _models(page: Path, folder: Path) -> dict[str, Path]:
    named = [name for name in (CHAT, ENCODER) if name in page.read_text()]
    if not named:
        return {}
    from tutorial_models import tiny_models  # imports torch, which most pages do without

    return tiny_models(named, folder)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_files_and_commands_and_shows_what_they_print(page: Path) -> None:
    found = list(steps(page, {}))
    assert any(step.file for step in found)
    assert sum(bool(step.shown) for step in found) >= 5
    assert page.name in (page.parents[2] / "mkdocs.yml").read_text()


@pytest.mark.parametrize(
    ("shown", "lost"),
    [
        (["step 7/9  loss 4.1  ...", "...", "run: runs/a"], []),
        (["plan  2.5 GiB at most"], []),
        (["run: runs/b"], ["run: runs/b"]),
        (["run: runs/a", "step 1/9  loss 5.2  lr 1e-3"], ["step 1/9  loss 5.2  lr 1e-3"]),
    ],
)
def test_lines_count_as_printed_whatever_their_numbers_and_only_in_their_order(
    shown: list[str], lost: list[str]
) -> None:
    printed = "plan    310 MiB at most\nstep 1/9  loss 5.207  lr 1.00e-03\nrun: runs/a\n"
    assert not_printed(Step("hfx train", shown=tuple(shown)), printed) == lost
