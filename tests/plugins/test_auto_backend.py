"""The default backend: one process, or DDP where several were started."""

from __future__ import annotations

from pathlib import Path

import pytest

from hfx.api import problems
from ranks import assert_same_run, folder_of_rows, trained
from resolving import go


@pytest.mark.slow
def test_of_several_processes_each_holds_the_model_as_under_ddp(tmp_path: Path) -> None:
    folder = folder_of_rows(tmp_path)
    trained(folder, "named", "--plugin", "ddp")
    trained(folder, "default")
    assert_same_run(folder / "named", folder / "default")


@pytest.mark.parametrize(
    ("variable", "plugin"), [("ACCELERATE_USE_DEEPSPEED", "zero"), ("ACCELERATE_USE_FSDP", "fsdp")]
)
def test_an_engine_that_accelerate_was_asked_for_is_not_left_out_without_a_word(
    variable: str, plugin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "true")
    assert any(f"add '--plugin {plugin}'" in problem.message for problem in problems(go()))
    named = [problem.message for problem in problems(go(plugin)) if "accelerate" in problem.message]
    assert named == []
