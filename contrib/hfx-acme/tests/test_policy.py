"""Acme's policy in real runs: every run leaves a line, and nobody gets around it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

SMALL = [
    "--steps", "2", "--batch-size", "4", "--seq-length", "32", "--bpe.vocab-size", "300",
    "--scratch.hidden-size", "32", "--scratch.layers", "2", "--plugin", "acme_docs", "--acme-docs.table", "our docs",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, store: Callable[..., Path]) -> Path:
    """A folder with Acme's policy, its audit trail moved here, and a database."""
    printed = subprocess.run([sys.executable, "-m", "hfx_acme"], capture_output=True, text=True, check=True).stdout
    policy = yaml.safe_load(printed)
    policy["locked"]["audit"]["path"] = str(tmp_path / "audit.jsonl")
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy))
    store("acme.db", *(f"document {number} tells of {number * number}" for number in range(60)))
    return tmp_path


def hfx(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `hfx` under the policy."""
    environ = {
        **os.environ, "HFX_POLICY": "policy.yaml", "HFX_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "hfx", *words]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)


def lines(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of the audit trail."""
    return [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]


def test_a_run_leaves_a_line_with_everything(folder: Path) -> None:
    done = hfx(folder, "train", *SMALL, "--acme-docs.database", "acme.db", "--output", "run")
    assert done.returncode == 0, done.stderr
    [line] = lines(folder)
    assert line["outcome"] == "finished"
    assert line["step"] == 2
    assert line["uid"] == os.getuid()
    assert line["user"]
    assert line["host"]
    assert line["started"] < line["ended"]
    assert line["run"]["batch_size"] == 4
    assert line["run"]["seed"] == 1
    assert line["output"] == str(folder / "run")
    assert line["plugins"]["audit"].startswith("hfx-acme ")
    assert line["plugins"]["adamw"].startswith("hfx ")
    assert list(line["plugins"])[-1] == "audit"
    assert line["data"].keys() == {"train", "eval"}


def test_a_run_that_fails_while_it_reads_its_data_leaves_a_line(folder: Path) -> None:
    done = hfx(folder, "train", *SMALL, "--acme-docs.database", "nowhere.db", "--output", "run")
    assert done.returncode == 1, done.stderr
    [line] = lines(folder)
    assert line["outcome"] == "failed"
    assert "nowhere.db" in line["error"]
    assert line["data"] is None


def test_a_run_that_fails_after_it_read_its_data_leaves_a_line_with_them(folder: Path) -> None:
    words = (*SMALL, "--acme-docs.database", "acme.db", "--output", "run")
    assert hfx(folder, "train", *words).returncode == 0
    shutil.rmtree(folder / "run" / "model")
    (folder / "run" / "model").write_text("a file where a folder has to be")
    done = hfx(folder, "train", *words, "--steps", "4", "--resume", "auto")
    assert done.returncode == 1, done.stderr
    line = lines(folder)[-1]
    assert line["outcome"] == "failed"
    assert "model" in line["error"]
    assert line["data"].keys() == {"train", "eval"}


def test_an_audit_trail_that_cannot_be_written_stops_the_run_before_it_begins(folder: Path) -> None:
    (folder / "audit.jsonl").mkdir()
    done = hfx(folder, "train", *SMALL, "--acme-docs.database", "acme.db", "--output", "run")
    assert done.returncode == 2
    assert "audit.jsonl" in done.stderr
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--plugin", "no:audit"],
        ["--audit.path", "mine.jsonl"],
        ["--max-bad-rows", "5"],
        ["--plugin", "no:progress", "--plugin", "no:audit"],
    ],
    ids=" ".join,
)
def test_the_rules_cannot_be_got_around(folder: Path, words: list[str]) -> None:
    done = hfx(folder, "train", *SMALL, "--acme-docs.database", "acme.db", "--output", "run", *words)
    assert done.returncode == 2, done.stderr
    assert "policy" in done.stderr
    assert not (folder / "run").exists()
    assert not (folder / "mine.jsonl").exists()


def test_the_dry_run_shows_where_each_rule_stands(folder: Path) -> None:
    done = hfx(folder, "train", *SMALL, "--acme-docs.database", "acme.db", "--dry-run")
    assert done.returncode == 0, done.stderr
    for value in ("audit.jsonl", "max_bad_rows", "seed"):
        line = next(line for line in done.stdout.splitlines() if value in line.replace("-", "_"))
        assert "policy.yaml:" in line, line
    assert not (folder / "audit.jsonl").exists()
