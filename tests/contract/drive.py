"""One run of the drives, started by torchrun: `drive.py OUTPUT STEPS KILL_AT ENGINE PARTS...`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

import hfx
from contract import plugins as drives

OTHERS = {
    "packing": drives.Packing,
    "stream": drives.Stream,
    "freeze": drives.Freeze,
    "http": drives.http_stream,
    "lora": drives.adapters,
    "ema": drives.ema,
}


def main(output: str, steps: str, kill_at: str, engine: str, *others: str) -> None:
    torch.set_num_threads(1)
    plugins = [*drives.engines()[engine], *(OTHERS[name]() for name in others)]
    if int(kill_at):
        plugins.append(drives.Kill(step=int(kill_at)))
    if interrupt_at := int(os.environ.get("DRIVE_INTERRUPT", "0")):
        plugins.append(drives.Interrupt(step=interrupt_at))
    if not {"stream", "http"} & set(others):
        plugins.append(drives.Stream(count=120, block=10_000))
    config = {
        "plugins": {
            "scratch": {"hidden_size": 32, "layers": 2, "heads": 4, "tie_embeddings": False},
            "bpe": {"vocab_size": 280},
            "fp32": {},
            "progress": {"every": 1000},
        }
    }
    hfx.train(
        config, output=output, steps=int(steps), batch_size=7, micro_batch_size=2, seq_length=48, save_every=3,
        eval_every=4, resume="auto", plugins=plugins, data=os.environ.get("DRIVE_DATA"),
    )  # fmt: skip


main(*sys.argv[1:])
