from __future__ import annotations

import json
import os
import pty
import signal
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tracked import SMALL, environment, folder_with_rows, killed_and_resumed, recorded, train, train_until

pytest.importorskip("wandb")
WORDS = ("--plugin", "wandb", "--wandb.mode", "offline", "--wandb.tags", "small,tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_with_rows(tmp_path_factory.mktemp("wandb"))


def records(path: Path) -> list[Any]:
    """Return what a run's file holds: LevelDB's log format, blocks of 32 KiB behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    content, found, partial, at = path.read_bytes(), [], b"", 7
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        partial += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            found.append(wandb_internal_pb2.Record.FromString(partial))
            partial = b""
    return found


def on_the_terminal(descriptor: int) -> str:
    """Return all that a process writes to its terminal."""
    said = b""
    with suppress(OSError):  # how a terminal says that the other side is gone
        while some := os.read(descriptor, 65536):
            said += some
    os.close(descriptor)
    return said.decode()


def files(run: Path) -> list[Path]:
    return sorted((run / "wandb").glob("offline-run-*/run-*.wandb"))


def history(path: Path) -> list[dict[str, Any]]:
    rows = []
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            items = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
            rows.append(items | {"_step": record.history.step.num})
    return rows


def told(rows: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if not name.startswith("_") and name != "eval_step":
                step = row["eval_step"] if name.startswith("eval_") else row["_step"]
                found.setdefault(name, []).append((step, value))
    return found


def beginning(path: Path) -> Any:
    return next(r.run for r in records(path) if r.WhichOneof("record_type") == "run")


def test_every_figure_is_that_of_the_metrics_file_and_the_config_is_there(folder: Path) -> None:
    done = train(folder, "whole", *WORDS)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "run: whole\n"
    (file,) = files(folder / "whole")
    assert told(history(file)) == recorded(folder / "whole")
    run = beginning(file)
    assert (run.project, run.display_name, list(run.tags)) == ("hfx", "whole", ["small", "tiny"])
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["run"]["batch_size"] == 4
    assert config["plugins"]["wandb"]["package"].startswith("hfx ")


def test_a_killed_and_resumed_run_goes_on_under_its_id_in_a_file_that_has_all_of_it(folder: Path) -> None:
    killed_and_resumed(folder, "killed", *WORDS)
    first, second = files(folder / "killed")
    assert first.name == second.name
    assert told(history(second)) == recorded(folder / "killed")


@pytest.mark.slow
def test_an_evaluation_that_a_resumed_run_makes_up_for_is_not_lost(folder: Path) -> None:
    words = (*WORDS, "--eval-every", "1")
    code, said = train_until(folder, "stopped", 2, signal.SIGTERM, *words)
    assert code in (0, 143), said
    done = train(folder, "stopped", *words, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    first, second = files(folder / "stopped")
    assert told(history(second)) == recorded(folder / "stopped")
    kept = {step for step, _ in told(history(first))["loss"]}
    assert kept == set(range(1, len(kept) + 1))


def test_without_a_key_the_run_is_kept_offline_and_nobody_is_asked_for_one(folder: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "hfx", "train", *SMALL, "--output", "keyless", "--plugin", "wandb"]
    with subprocess.Popen(
        command, cwd=folder, env=environment(folder), stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        patience = threading.Timer(150, process.kill)
        patience.start()
        said = on_the_terminal(ours)
        patience.cancel()
    assert process.returncode == 0, said
    assert said.count("hfx: warning: 'wandb' keeps the run offline (") == 1
    assert "Enter your choice" not in said
    (file,) = files(folder / "keyless")
    assert told(history(file)) == recorded(folder / "keyless")
