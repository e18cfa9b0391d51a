"""What differs on resume is told in a table: saved, now, the effect, and what to type to have it as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from command_line import hfx
from hfx.differences import Difference, table

SMALL = (
    *("--seq-length", "32", "--bpe.vocab-size", "280", "--scratch.hidden-size", "32", "--scratch.layers", "1"),
    *("--scratch.heads", "2", "--batch-size", "4", "--data", "rows.jsonl", "--plugin", "fp32"),
)


def test_a_table_has_a_line_for_each_difference_in_columns_and_none_without_any() -> None:
    found = table(
        [
            Difference("processes", "1", "2", "sums may differ", "--nproc 1"),
            Difference("micro_batch_size", "8", "x" * 99, "exact", "--micro-batch-size 8"),
        ]
    )
    assert [line[:10].strip() for line in found] == ["differs", "", ""]
    assert len({line.index(word) for line, word in zip(found, ("as it was", "--nproc", "--micro"), strict=True)}) == 1
    assert all(len(line) < 150 for line in found)
    assert table([]) == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of four steps."""
    path: Path = tmp_path_factory.mktemp("differences")
    rows = [json.dumps({"text": f"row {number} has words {number * 7 % 11}"}) for number in range(40)]
    (path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    done = hfx("train", *SMALL, "--steps", "4", "--output", "run", cwd=path, HFX_CACHE=str(path / "cache"))
    assert done.returncode == 0, done.stderr
    return path


def resumed(folder: Path, *words: str, code: int = 0) -> str:
    done = hfx("train", "--resume", "run", *words, cwd=folder, HFX_CACHE=str(folder / "cache"))
    assert done.returncode == code, done.stderr
    return done.stderr


def test_what_was_typed_otherwise_is_said_with_its_effect_and_how_to_have_it_back(folder: Path) -> None:
    lines = resumed(
        folder, "--steps", "6", "--micro-batch-size", "2", "--adamw.lr", "0.01", "--log-every", "2"
    ).splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("differs"))
    said = [" ".join(line.split()) for line in lines[start : start + 5]]
    assert said[0] == "differs saved now effect as it was"
    assert "steps 4 6 the schedule follows the new length from here on --steps 4" in said
    assert any(line.startswith("micro_batch_size ") and line.endswith("--micro-batch-size 8") for line in said)
    assert "log_every 1 2 exact: the same bits --log-every 1" in said
    assert any(line.startswith("adamw.lr ") and "learning rate and groups are the checkpoint" in line for line in said)


def test_what_makes_going_on_impossible_is_refused_with_what_to_type(folder: Path) -> None:
    said = resumed(folder, "--seed", "9", "--steps", "9", code=2)
    assert "seed: saved 0, now 9 (refused: it would change what is trained)" in said
    assert "'--seed 0' goes on, or begin anew with another '--output'" in said
    assert "'--plugin adamw' goes on" in resumed(folder, "--plugin", "lion", "--steps", "9", code=2)


def test_the_same_rows_may_lie_elsewhere_and_other_rows_may_not(folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(folder, tmp_path / "copy")
    (folder / "moved").mkdir()
    (folder / "moved" / "rows.jsonl").write_bytes((folder / "rows.jsonl").read_bytes())
    said = " ".join(resumed(folder, "--data", "moved/rows.jsonl").split())
    assert "data rows.jsonl moved/rows.jsonl exact: the same bits --data rows.jsonl" in said
    (folder / "moved" / "rows.jsonl").write_text('{"text": "other words"}\n' * 40)
    said = resumed(folder, "--data", "moved/rows.jsonl", code=2)
    assert "data: saved rows.jsonl, now moved/rows.jsonl (refused: it would change what is trained)" in said


@pytest.mark.parametrize("words", [("--parameter-groups.lr", "{'*mlp*': 0.1}"), ("--plugin", "no:parameter_groups")])
def test_other_groups_of_parameters_are_not_given_each_others_rates(words: tuple[str, ...], folder: Path) -> None:
    given = ("--plugin", "parameter_groups", "--parameter-groups.lr", "{'*embed*': 0.1}", "--output", "grouped")
    if not (folder / "grouped").exists():
        done = hfx("train", *SMALL, *given, "--steps", "2", cwd=folder, HFX_CACHE=str(folder / "cache"))
        assert done.returncode == 0, done.stderr
    done = hfx("train", "--resume", "grouped", "--steps", "4", *words, cwd=folder, HFX_CACHE=str(folder / "cache"))
    assert done.returncode == 2, done.stderr
    assert "the optimizer's groups of parameters are others than in the checkpoint (" in done.stderr
    assert "bug" not in done.stderr


def test_a_start_that_was_killed_before_it_wrote_its_config_keeps_no_run_away(folder: Path) -> None:
    (folder / "begun").mkdir()
    (folder / "begun" / ".lock").touch()
    (folder / "begun" / "run.yaml.partial").write_text("data: ro")
    words = ("--resume", "auto", "--steps", "1", "--output", "begun")
    done = hfx("train", *SMALL, *words, cwd=folder, HFX_CACHE=str(folder / "cache"))
    assert done.returncode == 0, done.stderr
    assert not (folder / "begun" / "run.yaml.partial").exists()


def test_another_schedule_decides_the_rate_of_the_first_step_too(folder: Path) -> None:
    flat = ("--plugin", "constant", "--constant.warmup", "0", "--adamw.lr", "1e-3")
    given = (*SMALL, *flat, "--steps", "2", "--output", "rates")
    done = hfx("train", *given, cwd=folder, HFX_CACHE=str(folder / "cache"))
    assert done.returncode == 0, done.stderr
    words = ("--resume", "rates", "--steps", "4", "--plugin", "linear", "--linear.warmup", "0")
    done = hfx("train", *words, cwd=folder, HFX_CACHE=str(folder / "cache"))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (folder / "rates" / "metrics.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in lines if "lr" in line] == pytest.approx([1e-3, 1e-3, 5e-4, 2.5e-4])


def test_the_same_again_differs_in_nothing(folder: Path) -> None:
    assert "differs" not in resumed(folder)


@pytest.mark.parametrize("words", [("--stream.block", "20"), ("--eval-share", "0.4"), ("--causal-lm.overflow", "drop")])
def test_of_a_stream_what_decides_what_is_in_a_block_is_refused_too(words: tuple[str, ...], folder: Path) -> None:
    given = (*SMALL, "--plugin", "stream", "--stream.block", "10", "--eval-share", "0.1", "--steps", "4")
    if not (folder / "flow").exists():
        done = hfx("train", *given, "--output", "flow", cwd=folder, HFX_CACHE=str(folder / "cache"))
        assert done.returncode == 0, done.stderr
    more = ("--resume", "flow", "--steps", "6")
    done = hfx("train", *more, *words, cwd=folder, HFX_CACHE=str(folder / "cache"))
    assert done.returncode == 2, done.stderr
    assert "reordered: the position means nothing in another order" in done.stderr
