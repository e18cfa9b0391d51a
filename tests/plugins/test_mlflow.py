from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tracked import environment, folder_with_rows, killed_and_resumed, recorded, train

pytest.importorskip("mlflow")
pytest.importorskip("sqlalchemy")
pytest.importorskip("alembic")
WORDS = ("--plugin", "mlflow")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_with_rows(tmp_path_factory.mktemp("mlflow"))


def query(database: Path, words: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(words).fetchall()


def told(database: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for key, step, value in query(database, "SELECT key, step, value FROM metrics ORDER BY step"):
        found.setdefault(str(key), []).append((int(str(step)), float(str(value))))
    return found


def test_every_figure_is_that_of_the_metrics_file_and_the_config_is_there(folder: Path) -> None:
    done = train(folder, "whole", *WORDS)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "run: whole\n"
    database = folder / "whole" / "mlflow" / "mlflow.db"
    assert told(database) == recorded(folder / "whole")
    parameters = dict(query(database, "SELECT key, value FROM params"))
    assert parameters["run.batch_size"] == "4"
    assert str(parameters["plugins.mlflow.package"]).startswith("hfx ")
    assert query(database, "SELECT name, status FROM runs") == [("whole", "FINISHED")]
    assert ("hfx",) in query(database, "SELECT name FROM experiments")
    assert not list(folder.glob("mlruns*"))


def test_a_killed_and_resumed_run_goes_on_in_its_run_with_each_step_once(folder: Path) -> None:
    killed_and_resumed(folder, "killed", *WORDS)
    database = folder / "killed" / "mlflow" / "mlflow.db"
    found, wanted = told(database), recorded(folder / "killed")
    assert {name: [step for step, _ in points] for name, points in found.items()} == {
        name: [step for step, _ in points] for name, points in wanted.items()
    }
    for name in ("loss", "lr", "grad_norm", "tokens", "eval_loss"):
        assert found[name] == wanted[name]
    assert query(database, "SELECT name, status FROM runs") == [("killed", "FINISHED")]


FAILING = """
import hfx
class Failing(hfx.Plugin):
    '''Fails.'''
    @hfx.hookimpl
    def hfx_step_end(self, run):
        assert run.step < 3, "on purpose"
sizes = {"bpe": {"vocab_size": 300}, "scratch": {"hidden_size": 32, "layers": 2}}
hfx.train({"data": "rows.jsonl", "seq_length": 32, "plugins": sizes}, plugins=["mlflow", Failing()], output="failed")
"""


def test_a_run_that_fails_is_marked_so(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAILING],
        cwd=folder,
        env=environment(folder),
        text=True,
        capture_output=True,
        timeout=200,
    )
    assert "on purpose" in done.stderr
    assert query(folder / "failed" / "mlflow" / "mlflow.db", "SELECT status FROM runs") == [("FAILED",)]


def test_a_server_that_is_not_there_costs_a_warning_and_not_the_run(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    done = train(folder, "alone", *WORDS, "--mlflow.uri", f"http://127.0.0.1:{port}")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("hfx: warning: 'mlflow' failed (MlflowException:") == 1
    assert "'mlflow' lacks the last 15 of what it was told; 'metrics.jsonl' has all of it" in done.stderr
    assert len(recorded(folder / "alone")["loss"]) == 12
    assert time.monotonic() - began < 100


def test_a_password_in_the_address_is_refused(folder: Path) -> None:
    done = train(folder, "secret", *WORDS, "--mlflow.uri", "https://me:secret@host/")
    assert done.returncode == 2
    assert "'mlflow.uri' holds a password or a query" in done.stderr
    assert not (folder / "secret").exists()
