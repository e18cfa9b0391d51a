"""Slurm and Ray prepare the rows that this machine prepares alone; real ones, of one machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from one_machine_clusters import ray, slurm

pytestmark = pytest.mark.clusters

STEPS = ("--plugin", "normalize", "--plugin", "exact_dedup", "--plugin", "near_dedup", "--bpe.vocab-size", "300")
ON = {
    "slurm": (slurm, ("--datatrove.partition", "cpu", "--datatrove.poll-seconds", "0.5")),
    "ray": (ray, ()),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    texts = [f"The {number * 7919 % 1000} otters of {number} rivers\u200b swim by night" for number in range(300)]
    rows = [{"text": text} for text in [*texts, *texts[:40]]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def prepare(folder: Path, environ: dict[str, str], cache: str, *words: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | environ | {"HFX_CACHE": str(folder / cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "hfx", "data", "prepare", "--data", "rows.jsonl", *STEPS, *words]
    return subprocess.run(command, cwd=folder, env=environ, text=True, capture_output=True, timeout=300)


@pytest.mark.parametrize("cluster", ON)
def test_a_cluster_prepares_what_one_machine_prepares(
    cluster: str, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    start: Callable[[Path], AbstractContextManager[dict[str, str]]]
    start, options = ON[cluster]
    here = tmp_path_factory.mktemp(cluster)
    words = ("--executor", "datatrove", "--datatrove.cluster", cluster, "--datatrove.tasks", "3", *options)
    words = (*words, "--datatrove.memory-gb", "1")
    with start(here) as environ:
        spread = prepare(folder, environ, "spread", *words)
        assert spread.returncode == 0, spread.stderr
        # A task that cannot do its work: the folder that its part goes to is taken by a file.
        for part in (folder / "spread" / "rows").iterdir():
            if part.is_dir() and json.loads((part / "report.json").read_text())["changed"]:
                (folder / "spread" / "rows" / part.name).rename(folder / f"aside-{part.name}")
                blocked = folder / "spread" / "parts" / f"{part.name}-3"
                blocked.mkdir(parents=True)
                (blocked / "00001.partial").write_text("in the way")
        failed = prepare(folder, environ, "spread", *words)
        assert failed.returncode == 1, failed.stderr
        assert "parts" in failed.stderr.splitlines()[-1], failed.stderr
        assert "what is done is kept" in failed.stderr
    alone = prepare(folder, {}, "alone")
    assert spread.stdout.replace("/spread/", "/alone/") == alone.stdout
    tables = [next((folder / cache / "table").glob("*/table.arrow")) for cache in ("alone", "spread")]
    assert tables[0].read_bytes() == tables[1].read_bytes()
