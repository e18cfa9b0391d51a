"""Every optimizer in hfx's own loop against a plain loop with the library's optimizer, and killed, to the bit."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.optim import AdamW8bit as AdamW8bitOptimizer
from bitsandbytes.optim import Lion8bit as Lion8bitOptimizer
from lion_pytorch import Lion as LionOptimizer
from pytorch_optimizer.optimizer.galore import GaLore
from safetensors.torch import load_file
from schedulefree import AdamWScheduleFree

from hfx import Plugin, Run
from hfx_plugins.batching.padding import Padding
from hfx_plugins.models.scratch import Scratch
from hfx_plugins.optimizers.adafactor import Adafactor
from hfx_plugins.optimizers.adamw import AdamW
from hfx_plugins.optimizers.adamw_8bit import AdamW8bit
from hfx_plugins.optimizers.galore import Galore
from hfx_plugins.optimizers.lion import Lion
from hfx_plugins.optimizers.lion_8bit import Lion8bit
from hfx_plugins.optimizers.muon import Muon
from hfx_plugins.optimizers.schedule_free import ScheduleFree
from hfx_plugins.optimizers.sgd import Sgd
from hfx_plugins.precision.fp32 import FP32
from hfx_plugins.samplers.sequential import Sequential
from hfx_plugins.schedules.constant import Constant
from hfx_plugins.schedules.cosine import Cosine
from hfx_plugins.tokenizers.bpe import Bpe
from tiny_models import decayed

STEPS, BATCH, WARMUP = 6, 4, 2
EIGHT: dict[str, Any] = {"quantize_embeddings": True, "min_8bit_size": 256}
"""Options by which the matrices of a tiny model have 8 bits."""
Share = Callable[[int], float]


def _adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(decayed(model, 0.01), lr=3e-3)


def _lion(model: torch.nn.Module) -> torch.optim.Optimizer:
    return LionOptimizer(decayed(model, 0.1), lr=1e-3)


def _adamw_8bit(model: torch.nn.Module) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = AdamW8bitOptimizer(decayed(model, 0.01), lr=3e-3, min_8bit_size=256)
    return optimizer


def _lion_8bit(model: torch.nn.Module) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = Lion8bitOptimizer(decayed(model, 0.1), lr=1e-3, min_8bit_size=256)
    return optimizer


def _galore(model: torch.nn.Module) -> torch.optim.Optimizer:
    named = dict(model.named_parameters())
    norms = {name for name in named if "norm" in name}
    inner = {name for name in named if ".layers." in name} - norms
    projection = {"rank": 8, "update_proj_gap": 3, "scale": 0.25, "projection_type": "std"}
    groups = [
        {"params": [p for name, p in named.items() if name in inner], **projection},
        {"params": [p for name, p in named.items() if name not in inner]},
    ]
    optimizer: torch.optim.Optimizer = GaLore(groups, lr=1e-2)
    return optimizer


def _adafactor(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(decayed(model, 0.0), lr=3e-2)


def _sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(decayed(model, 0.01), lr=0.1, momentum=0.9, nesterov=True)


def _schedule_free(model: torch.nn.Module) -> torch.optim.Optimizer:
    optimizer = AdamWScheduleFree(decayed(model, 0.01), lr=3e-3)
    optimizer.train()
    return optimizer


class _Muon(torch.optim.Optimizer):
    """Torch's Muon, then its AdamW, as one writes them by hand."""

    def __init__(self, model: torch.nn.Module) -> None:
        named = dict(model.named_parameters())
        norms = {name for name in named if "norm" in name}
        inner = {name for name in named if ".layers." in name} - norms
        self._muon = torch.optim.Muon([named[name] for name in named if name in inner], lr=0.02, weight_decay=0.1)
        self._adamw = torch.optim.AdamW(
            [
                {"params": [p for name, p in named.items() if name not in inner | norms], "weight_decay": 0.1},
                {"params": [p for name, p in named.items() if name in norms], "weight_decay": 0.0},
            ],
            lr=3e-3,
            betas=(0.9, 0.95),
        )
        self.param_groups = [*self._muon.param_groups, *self._adamw.param_groups]

    def step(self) -> None:
        self._muon.step()
        self._adamw.step()

    def zero_grad(self) -> None:
        self._muon.zero_grad()
        self._adamw.zero_grad()


def _half_a_cosine(step: int) -> float:
    after = max(0, step - WARMUP) / (STEPS - WARMUP)
    return (step + 1) / WARMUP if step < WARMUP else 0.5 * (1 + math.cos(math.pi * after))


def _level(step: int) -> float:
    return min(1.0, (step + 1) / WARMUP)


def _plain_loop(run: Run, model: torch.nn.Module, optimizer: torch.optim.Optimizer, share: Share) -> list[float]:
    """Train on the rows of the run's table in their order, with nothing of hfx in the mathematics."""
    table, peaks, found = run.table("train"), [group["lr"] for group in optimizer.param_groups], []
    model.train()
    for step in range(STEPS):
        rows = [torch.tensor(table.values(step * BATCH + at)["input_ids"]).long() for at in range(BATCH)]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        wanted = mask[:, 1:].bool()
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1][wanted]
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:][wanted], reduction="sum")
        (loss * (1 / int(wanted.sum()))).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * share(step)
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item() / int(wanted.sum()))
    return found


@pytest.mark.parametrize(
    ("plugin", "library"),
    [
        (AdamW(lr=3e-3), _adamw),
        (Lion(lr=1e-3), _lion),
        (AdamW8bit(lr=3e-3, **EIGHT), _adamw_8bit),
        (Lion8bit(lr=1e-3, **EIGHT), _lion_8bit),
        (Galore(rank=8, update_every=3), _galore),
        (Adafactor(lr=3e-2), _adafactor),
        (Sgd(lr=0.1, nesterov=True, weight_decay=0.01), _sgd),
        (Muon(lr=0.02, adamw_lr=3e-3), _Muon),
        (ScheduleFree(lr=3e-3), _schedule_free),
    ],
    ids=lambda value: value.name if isinstance(value, Plugin) else "",
)
def test_a_run_has_the_losses_of_a_plain_loop_to_the_bit(
    plugin: Plugin,
    library: Callable[[torch.nn.Module], torch.optim.Optimizer],
    make_run: Callable[..., Run],
    tmp_path: Path,
) -> None:
    torch.set_num_threads(1)
    text = tmp_path / "rows.txt"
    text.write_text(
        "\n\n".join(f"the {number} quick brown foxes jump over it " * (1 + number % 3) for number in range(30))
    )
    level = isinstance(plugin, ScheduleFree)
    run = make_run(
        plugin, Scratch(hidden_size=32, layers=2), Bpe(vocab_size=300), Sequential(), Padding(), FP32(),
        Constant(warmup=WARMUP) if level else Cosine(warmup=WARMUP),
        data=str(text), steps=STEPS, batch_size=BATCH, micro_batch_size=BATCH, seq_length=24, eval_share=0,
    )  # fmt: skip
    run.output.mkdir()
    run.build()
    model = copy.deepcopy(run.model)

    ours = [run.train_step(batch)["loss"] for batch in run.batches()]

    assert ours == _plain_loop(run, model, library(model), _level if level else _half_a_cosine)
    assert ours[-1] < ours[0]


def _train(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    given = (
        *("--data", "rows.txt", "--seq-length", "32", "--bpe.vocab-size", "300", "--scratch.hidden-size", "32"),
        *("--scratch.layers", "2", "--batch-size", "4", "--steps", "14", "--eval-every", "4", "--save-every", "3"),
        *("--plugin", "fp32", "--plugin", "constant"),
    )
    environ = os.environ | {"HFX_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "hfx", "train", *given, *arguments]
    return subprocess.Popen(command, cwd=folder, env=environ, stderr=subprocess.PIPE)


def _figures(run: Path) -> list[tuple[object, ...]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [tuple(line.get(key) for key in ("step", "loss", "lr", "grad_norm", "eval_loss")) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize(
    "plugin",
    [
        "sgd",
        "muon",
        "schedule_free",
        "adamw_8bit --adamw_8bit.min-8bit-size 256",
        "lion_8bit --lion_8bit.min-8bit-size 256 --lion_8bit.quantize-embeddings true",
        "galore --galore.rank 8 --galore.update-every 4",
    ],
    ids=lambda words: words.split()[0],
)
def test_a_killed_run_goes_on_to_the_bit(plugin: str, tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("\n\n".join(f"row {n} of some foxes " * (1 + n % 3) for n in range(90)))
    named = ("--plugin", *plugin.split())
    _, said = (whole := _train(tmp_path, *named, "--output", "whole")).communicate(timeout=200)
    assert whole.returncode == 0, said
    wanted, metrics = random.SystemRandom().randint(4, 12), tmp_path / "killed" / "metrics.jsonl"

    killed = _train(tmp_path, *named, "--output", "killed")
    while killed.poll() is None and (not metrics.exists() or metrics.read_text().count("grad_norm") < wanted):
        time.sleep(0.002)
    killed.kill()
    killed.communicate(timeout=100)
    _, said = (again := _train(tmp_path, *named, "--output", "killed", "--resume", "auto")).communicate(timeout=200)

    assert again.returncode == 0, said
    assert _figures(tmp_path / "killed") == _figures(tmp_path / "whole")
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "killed"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
