"""Preparing as a datatrove pipeline: the same rows, report and cache as alone, and no part of it done in vain."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from failing_step import FailingStep
from hfx import HfxError, Place, Row, Rows
from hfx.outcomes import outcomes_of
from hfx.reading import Reading
from hfx.rows import RowSet
from hfx.stages import prepare_rows
from hfx_plugins.executors.datatrove import Datatrove

CONFIG = """
data: rows.jsonl
seq_length: 64
plugins:
  normalize:
  quality: {rules: [gopher], gopher_min_words: 6, gopher_min_stop_words: 0}
  exact_dedup: {columns: [text]}
  near_dedup:
  pii:
  bpe: {vocab_size: 300}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows that every step has something to say about, and a line that is no JSON."""
    path: Path = tmp_path_factory.mktemp("datatrove")
    rng = random.Random(0)
    words = [f"{what}{number}" for what in ("river", "otter", "walks") for number in range(5)]
    texts = [" ".join(rng.choices(words, k=rng.randint(3, 40))) for _ in range(500)]
    texts += [texts[number] for number in range(0, 60, 3)]
    texts += [f"{texts[number]} again" for number in range(100, 160, 2)]
    texts += [f"Write to someone{number}@example.org about the {rng.choice(words)} today" for number in range(9)]
    rng.shuffle(texts)
    lines = [json.dumps({"text": text, "id": number}) for number, text in enumerate(texts)]
    lines.insert(77, "{broken")
    (path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    (path / "config.yaml").write_text(CONFIG)
    return path


def hfx(folder: Path, cache: str, *words: str) -> subprocess.CompletedProcess[str]:
    # Without a PATH no Slurm is found, whatever is installed.
    environ = os.environ | {"HFX_CACHE": str(folder / cache), "OMP_NUM_THREADS": "1", "PATH": str(folder)}
    command = [sys.executable, "-m", "hfx", "data", *words]
    return subprocess.run(command, cwd=folder, env=environ, text=True, capture_output=True, timeout=300)


def stages(cache: Path) -> dict[str, Any]:
    """Return every stage of rows that tells of its steps: the report, and what happened."""
    found = {}
    for path in (cache / "rows").glob("*/report.json"):
        report = json.loads(path.read_text())
        if report["dropped"] or report["changed"]:
            rows = RowSet(path.parent, None, "")
            found[path.parent.name] = report, sorted(map(str, outcomes_of(rows)))
    return found


def test_the_command_leaves_what_a_preparation_alone_leaves(folder: Path) -> None:
    words = ("config.yaml", "--max-bad-rows", "1")
    alone = hfx(folder, "alone", "prepare", *words)
    spread = hfx(folder, "spread", "prepare", *words, "--executor", "datatrove", "--datatrove.tasks", "3")
    assert alone.returncode == 0, alone.stderr
    assert spread.returncode == 0, spread.stderr
    assert spread.stdout.replace("/spread/", "/alone/") == alone.stdout
    for reason in ("exact_dedup.duplicate", "near_dedup.near_duplicate", "quality.gopher_too_short", "pii.email"):
        assert reason in alone.stdout
    assert stages(folder / "spread") == stages(folder / "alone")
    assert not [*(folder / "spread" / "parts").iterdir()]

    tables = [next((folder / cache / "table").glob("*/table.arrow")) for cache in ("alone", "spread")]
    assert tables[0].read_bytes() == tables[1].read_bytes()
    before = {path: path.stat().st_mtime_ns for path in (folder / "spread").rglob("*.arrow")}
    again = hfx(folder, "spread", "prepare", *words)
    assert again.stdout == spread.stdout
    assert {path: path.stat().st_mtime_ns for path in (folder / "spread").rglob("*.arrow")} == before


def test_a_row_that_cannot_be_read_is_named_as_ever(folder: Path) -> None:
    done = hfx(folder, "strict", "prepare", "config.yaml", "--executor", "datatrove", "--datatrove.tasks", "2")
    assert done.returncode == 1
    assert "cannot read row rows.jsonl:78" in done.stderr


class Numbers:
    """Ninety rows."""

    indexed = True

    def fingerprint(self) -> str:
        return "ninety"

    def read(self, start: int = 0) -> Iterator[Row]:
        for number in range(start, 90):
            yield Row({"text": f"row {number}"}, Place("toy", "toy", number + 1))


def test_a_failed_task_is_told_with_its_log_and_only_what_is_missing_is_done_again(tmp_path: Path) -> None:
    obstacle = tmp_path / "obstacle"
    obstacle.touch()
    step = FailingStep(70, obstacle)
    rows = Rows(Numbers()).then(step).on(Datatrove(tasks=3, workers=1))
    with pytest.raises(HfxError, match="row 70 cannot be stepped") as told:
        prepare_rows(rows, tmp_path, Reading())
    logs = Path(str(told.value).partition("its log is in '")[2].partition("'")[0])
    assert "row 70 cannot be stepped" in (logs / "logs" / "task_00002.log").read_text()
    parts = logs.parent
    done = {path.name: path.stat().st_mtime_ns for path in parts.glob("0*")}
    assert set(done) == {"00000", "00001", "00002.partial"}

    obstacle.unlink()
    seen: dict[str, int] = {}

    class Watched(Datatrove):
        def run(self, work: Any, number: int, folder: Path) -> None:
            super().run(work, number, folder)
            seen.update({path.name: path.stat().st_mtime_ns for path in folder.glob("0*")})

    found = prepare_rows(Rows(Numbers()).then(step).on(Watched(tasks=3, workers=1)), tmp_path, Reading())
    assert [row.number for row in found] == list(range(90))
    assert {name: seen[name] for name in ("00000", "00001")} == {name: done[name] for name in ("00000", "00001")}
    assert not parts.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--executor", "lion"], "'lion' is no executor; 'datatrove' is one"),
        (["--executor", "datatrow"], "did you mean 'datatrove'?"),
        (["--executor", "datatrove", "--datatrove.cluster", "slurm"], "'--datatrove.partition NAME'"),
        (["--executor", "datatrove", "--plugin", "stream"], "a stream is prepared meanwhile; drop one of them"),
        (
            ["--executor", "datatrove", "--datatrove.cluster", "slurm", "--datatrove.partition", "cpu"],
            "finds no Slurm on this machine",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_work_is_refused_in_a_line(folder: Path, words: list[str], told: str) -> None:
    done = hfx(folder, "refused", "prepare", "config.yaml", "--max-bad-rows", "1", *words)
    assert done.returncode in (1, 2)
    assert told in done.stderr
    assert "Traceback" not in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("script", "queued"),
    [
        ("echo PENDING", True),
        ("echo COMPLETED", False),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", False),
        ("echo 'slurm_load_jobs error: Socket timed out' >&2; exit 1", "slurm_load_jobs error: Socket timed out"),
    ],
    ids=["waits", "ended", "forgotten", "no answer"],
)
def test_a_queue_that_does_not_answer_is_not_taken_for_tasks_that_ended(
    script: str, queued: bool | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hfx_plugins.executors.datatrove_impl import _queued

    (tmp_path / "squeue").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert _queued(7) == queued
