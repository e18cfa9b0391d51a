"""Lion, Adafactor and AdamW in hfx's own loop against a plain loop with the library's optimizer, to the bit."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lion_pytorch import Lion as LionOptimizer

from hfx import Plugin, Run
from hfx_plugins.batching.padding import Padding
from hfx_plugins.models.scratch import Scratch
from hfx_plugins.optimizers.adafactor import Adafactor
from hfx_plugins.optimizers.adamw import AdamW
from hfx_plugins.optimizers.lion import Lion
from hfx_plugins.precision.fp32 import FP32
from hfx_plugins.samplers.sequential import Sequential
from hfx_plugins.schedules.cosine import Cosine
from hfx_plugins.tokenizers.bpe import Bpe
from tiny_models import decayed

STEPS, BATCH, WARMUP = 6, 4, 2
Groups = list[dict[str, object]]


def _adamw(groups: Groups) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=3e-3)


def _lion(groups: Groups) -> torch.optim.Optimizer:
    return LionOptimizer(groups, lr=1e-3)


def _adafactor(groups: Groups) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(groups, lr=3e-2)


def _plain_loop(run: Run, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
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
        after = max(0, step - WARMUP) / (STEPS - WARMUP)
        share = (step + 1) / WARMUP if step < WARMUP else 0.5 * (1 + math.cos(math.pi * after))
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * share
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item() / int(wanted.sum()))
    return found


@pytest.mark.parametrize(
    ("plugin", "library", "weight_decay"),
    [(AdamW(lr=3e-3), _adamw, 0.01), (Lion(lr=1e-3), _lion, 0.1), (Adafactor(lr=3e-2), _adafactor, 0.0)],
    ids=["adamw", "lion", "adafactor"],
)
def test_a_run_has_the_losses_of_a_plain_loop_to_the_bit(
    plugin: Plugin,
    library: Callable[[Groups], torch.optim.Optimizer],
    weight_decay: float,
    make_run: Callable[..., Run],
    tmp_path: Path,
) -> None:
    torch.set_num_threads(1)
    text = tmp_path / "rows.txt"
    text.write_text(
        "\n\n".join(f"the {number} quick brown foxes jump over it " * (1 + number % 3) for number in range(30))
    )
    run = make_run(
        plugin, Scratch(hidden_size=32, layers=2), Bpe(vocab_size=300), Sequential(), Padding(), FP32(),
        Cosine(warmup=WARMUP),
        data=str(text), steps=STEPS, batch_size=BATCH, micro_batch_size=BATCH, seq_length=24, eval_share=0,
    )  # fmt: skip
    run.output.mkdir()
    run.build()
    model = copy.deepcopy(run.model)

    ours = [run.train_step(batch)["loss"] for batch in run.batches()]

    assert ours == _plain_loop(run, model, library(decayed(model, weight_decay)))
    assert ours[-1] < ours[0]
