"""A packed run that is killed in the middle of a window goes on to the bit."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from command_line import environment

KILLED = """
import os, signal, sys, torch, hfx
from hfx import Plugin, Run, hookimpl
from hfx_plugins.batching.packing import Packing

class Kill(Plugin):
    \"\"\"Ends the process as a machine that dies would.\"\"\"

    step: int
    \"\"\"The step.\"\"\"

    @hookimpl
    def hfx_step_end(self, run: Run) -> None:
        if run.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)

data, output, step = sys.argv[1:]
torch.set_num_threads(1)
small = {"scratch": {"hidden_size": 32, "layers": 2}, "bpe": {"vocab_size": 300}, "fp32": {}, "no:progress": {}}
hfx.train({"plugins": small}, data=data, output=output, steps=9, batch_size=2, seq_length=64, save_every=2,
          resume="auto", plugins=[Packing(window=60), *([Kill(step=int(step))] if int(step) else [])])
"""


@pytest.mark.slow
def test_a_run_killed_five_times_inside_an_epoch_and_its_windows_ends_with_the_same_bits(tmp_path):
    data = tmp_path / "rows.jsonl"
    lines = [json.dumps({"text": " ".join(f"w{n * k}" for k in range(1 + n * 7 % 23))}) for n in range(150)]
    data.write_text("\n".join(lines))

    def train(output: str, kill_at: int) -> int:
        command = [sys.executable, "-c", KILLED, str(data), str(tmp_path / output), str(kill_at)]
        environ = environment(HFX_CACHE=str(tmp_path / "cache"), OMP_NUM_THREADS="1")
        return subprocess.run(command, env=environ, capture_output=True, check=False).returncode

    kills = (1, 3, 4, 6, 8)
    assert [train("killed", step) for step in (*kills, 0)] == [-9] * 5 + [0]
    assert train("whole", 0) == 0
    killed, whole = ((tmp_path / name) for name in ("killed", "whole"))
    assert (killed / "ledger.jsonl").read_text() == (whole / "ledger.jsonl").read_text()
    positions = [json.loads(line)["position"] for line in (whole / "ledger.jsonl").read_text().splitlines()]
    assert {position["epoch"] for position in positions} == {0}
    assert all(positions[step]["bin"] > 0 for step in kills)
    weights = [(run / "model" / "model.safetensors").read_bytes() for run in (killed, whole)]
    assert weights[0] == weights[1]
