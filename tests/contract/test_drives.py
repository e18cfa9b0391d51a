"""The contract carries engines, packing, streams and frozen parameters: killed and resumed, a run ends the same."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

DRIVE = Path(__file__).with_name("drive.py")
EXACT = ("step", "epoch", "loss", "lr", "grad_norm", "tokens", "eval_loss")
STEPS = 8


def drive(
    folder: Path, processes: int, output: str, kill_at: int, *engine: str, **more: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DRIVE), output, str(STEPS), str(kill_at), *engine]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torchrun = ["-m", "torch.distributed.run", "--nnodes", "1", "--master_addr", "127.0.0.1"]
        command[1:1] = [*torchrun, "--master_port", str(port), "--nproc_per_node", str(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HFX_CACHE": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=folder, env=environment | more, text=True, capture_output=True, timeout=300)


def lines(path: Path) -> list[dict[str, Any]]:
    return [{key: line.get(key) for key in EXACT} for line in map(json.loads, path.read_text().splitlines())]


def assert_same_run(first: Path, second: Path) -> None:
    assert lines(first / "metrics.jsonl") == lines(second / "metrics.jsonl")
    assert (first / "ledger.jsonl").read_text() == (second / "ledger.jsonl").read_text()
    weights, others = (load_file(run / "model" / "model.safetensors") for run in (first, second))
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def killed_and_resumed(folder: Path, processes: int, *engine: str) -> None:
    whole = drive(folder, processes, "whole", 0, *engine)
    assert whole.returncode == 0, whole.stderr[-3000:]
    killed = drive(folder, processes, "killed", 5, *engine)
    assert killed.returncode != 0
    assert not (folder / "killed" / "model").exists()
    resumed = drive(folder, processes, "killed", 0, *engine)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "at step 3 of 8" in resumed.stderr
    assert_same_run(folder / "whole", folder / "killed")


@pytest.mark.parametrize("part", ["packing", "stream", "freeze"])
def test_one_process_resumes_bit_for_bit_with(part: str, tmp_path: Path) -> None:
    killed_and_resumed(tmp_path, 1, "one", part)


def test_two_processes_resume_bit_for_bit_with_packing_a_stream_and_frozen_parameters(tmp_path: Path) -> None:
    killed_and_resumed(tmp_path, 2, "ddp", "packing", "stream", "freeze")


@pytest.mark.drives
@pytest.mark.parametrize(("processes", "engine"), [(3, "ddp"), (3, "fsdp")], ids=str)
def test_an_engine_resumes_bit_for_bit(processes: int, engine: str, tmp_path: Path) -> None:
    killed_and_resumed(tmp_path, processes, engine)


@pytest.mark.drives
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_averaged_adapters_are_resumed_and_exported_bit_for_bit_under(engine: str, tmp_path: Path) -> None:
    killed_and_resumed(tmp_path, 2, engine, "lora", "ema")


@pytest.mark.drives
def test_a_run_killed_on_two_processes_goes_on_with_three_in_the_same_order(tmp_path: Path) -> None:
    assert drive(tmp_path, 2, "whole", 0, "ddp").returncode == 0
    assert drive(tmp_path, 2, "killed", 5, "ddp").returncode != 0
    resumed = drive(tmp_path, 3, "killed", 0, "ddp")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert re.search(r"processes +2 +3 ", resumed.stderr)
    ledgers = [(tmp_path / run / "ledger.jsonl").read_text() for run in ("whole", "killed")]
    assert ledgers[0] == ledgers[1]
    for expected, found in zip(*(lines(tmp_path / run / "metrics.jsonl") for run in ("whole", "killed")), strict=True):
        assert found["loss"] == (expected["loss"] and pytest.approx(expected["loss"], rel=1e-5))
