"""Ranks that do not see the same checkpoints: they go on from the one that rank 0 finds, or end before it is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ranks import folder_of_rows, ledger, trained
from toy_packages import toy_package

pytestmark = pytest.mark.faults
BLIND = '''"""A rank whose machine sees less."""

from hfx import Plugin, hookimpl


class Toy(Plugin):
    """Lets one rank see no checkpoint behind a step, as where a file system shows an old state, or fails to read."""

    rank: int = 1
    """Which."""

    @hookimpl
    def hfx_check(self, run):
        import hfx.checkpoint

        newest = hfx.checkpoint.newest
        if run.world.rank == self.rank:
            hfx.checkpoint.newest = lambda output, size, step=None: newest(output, size, min(step or 6, 6))
        return ()
'''


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two processes, with checkpoints of the sixth and the eighth step."""
    path = folder_of_rows(tmp_path_factory.mktemp("blind"))
    toy_package(path / "packages", "hfx-blind", {"blind": BLIND})
    trained(path, "whole")
    assert [name.name for name in sorted((path / "whole" / "checkpoints").iterdir())] == [
        "step-00000006",
        "step-00000008",
    ]
    return path


def test_a_rank_that_does_not_see_the_checkpoint_of_rank_0_is_named_before_anything_is_loaded(stopped: Path) -> None:
    shutil.copytree(stopped / "whole", stopped / "one")
    words = ("--resume", "auto", "--steps", "10", "--plugin", "blind", "--local.restarts", "0")
    said = trained(stopped, "one", *words, code=1).stderr
    assert "rank 1 finds that of step 6, and rank 0 goes on from the checkpoint of step 8; all machines need to" in said
    assert ledger(stopped / "one") == ledger(stopped / "whole")


def test_all_ranks_go_on_from_the_checkpoint_that_rank_0_finds(stopped: Path) -> None:
    shutil.copytree(stopped / "whole", stopped / "zero")
    words = ("--resume", "auto", "--steps", "10", "--plugin", "blind", "--blind.rank", "0")
    said = trained(stopped, "zero", *words).stderr
    assert "step-00000006 at step 6 of 10" in said
    assert ledger(stopped / "zero").count("\n") == 10
