"""Short runs of every plugin, for each backend: what is trained, how near it comes, and who drives it.

python backend_cells.py FOLDER BACKEND [CELL ...]   once for each process, with RANK and WORLD_SIZE set: trains every
                                                    cell, and again from its second step; rank 0 writes BACKEND.json
python backend_cells.py --refusals                  what is refused, as JSON, without torch
python backend_cells.py --page                      the page of the documentation
"""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

STEPS, SAVED = 4, 2
BACKENDS: dict[str, dict[str, Any]] = {
    "ddp": {"ddp": {"timeout_minutes": 1}},
    "fsdp": {"fsdp": {"timeout_minutes": 1}},
    "zero1": {"zero": {"stage": 1, "timeout_minutes": 1}},
    "zero2": {"zero": {"stage": 2, "timeout_minutes": 1}},
    "zero3": {"zero": {"stage": 3, "timeout_minutes": 1}},
}
ALONE = "alone"
BF16 = "sums in bf16 are rounded by what is summed, so by who sums"
GPU = "needs a GPU"


@dataclass(frozen=True)
class Cell:
    """A run that shows some plugins at work."""

    plugins: dict[str, dict[str, Any]]
    """Those that are shown, with their options."""
    also: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Those they need beside them."""
    fields: dict[str, Any] = field(default_factory=dict)
    loss: float = 1e-4
    """How near the losses of one process and of two are."""
    weights: float = 1e-3
    """How near the exported weights are: the relative L2 distance."""
    close: str = ""
    """Why they are no nearer, where they are not."""
    needs: str = ""
    """A package that is not always there."""
    untried: str = ""
    """Why it is not run."""


def _one(name: str, options: Mapping[str, Any] | None = None, **more: Any) -> Cell:
    return Cell({name: dict(options or {})}, **more)


CELLS: dict[str, Cell] = {
    "adamw": Cell({"adamw": {"lr": 1e-3}, "bpe": {}}),
    "untied": _one("scratch", {"tie_embeddings": False}),
    "sgd": _one("sgd", {"lr": 0.1, "momentum": 0.9}),
    "lion": _one("lion"),
    "adafactor": _one("adafactor"),
    "of transformers": _one("adafactor", {"variant": "transformers"}),
    "muon": _one(
        "muon", weights=1e-2, close="its iteration is in bf16, which makes more of the last bits of a gradient"
    ),
    "galore": _one("galore", {"rank": 8, "update_every": 3}, needs="pytorch_optimizer"),
    "adamw_8bit": _one("adamw_8bit", {"min_8bit_size": 256}, needs="bitsandbytes"),
    "lion_8bit": _one("lion_8bit", {"min_8bit_size": 256}, needs="bitsandbytes"),
    "schedule_free": _one("schedule_free", also={"constant": {}}, needs="schedulefree"),
    "parameter_groups": _one("parameter_groups", {"layer_decay": 0.8, "weight_decay": {"*embed_tokens": 0.0}}),
    "ema": _one("ema", {"decay": 0.5, "warmup": False}),
    "freeze": _one("freeze", {"names": ["model.embed_tokens", "model.layers.0"]}),
    "lora": _one("lora", {"rank": 4}, needs="peft"),
    "adapters alone": _one(
        "lora", {"rank": 4, "save": "adapters"}, also={"pretrained": {}}, fields={"model": "base"}, needs="peft"
    ),
    "dora": _one("lora", {"rank": 4, "variant": "dora"}, needs="peft"),
    "qlora": _one("qlora", {"rank": 4}, needs="bitsandbytes"),
    "neftune": _one("neftune", loss=0.05, weights=0.05, close="each micro-batch draws its own noise"),
    "attention": _one("attention", {"kernel": "eager"}),
    "pretrained": Cell({"pretrained": {}, "model_tokenizer": {}, "safetensors": {}}, fields={"model": "base"}),
    "gradient_checkpointing": _one("gradient_checkpointing"),
    "every other layer": _one("gradient_checkpointing", {"keep": "matmuls", "every": 2}),
    "chunked_loss": _one("chunked_loss", {"chunk": 16}),
    "an untied head": _one("chunked_loss", also={"scratch": {"tie_embeddings": False}}),
    "beside frozen layers": _one(
        "chunked_loss", also={"gradient_checkpointing": {}, "freeze": {"names": ["model.layers.0"]}}
    ),
    "activation_offload": _one("activation_offload", {"min_size": 1024}),
    "beside checkpointing": _one("activation_offload", {"min_size": 1024}, also={"gradient_checkpointing": {}}),
    "compile": _one("compile", {"backend": "aot_eager"}),
    "optimizer_in_backward": _one("optimizer_in_backward", fields={"max_grad_norm": None}),
    "liger": _one("liger", untried=GPU),
    "fp32": _one("fp32"),
    "auto_precision": _one("auto_precision", loss=1e-2, weights=1e-2, close=f"where it takes bf16, {BF16}"),
    "bf16": _one("bf16", loss=1e-2, weights=1e-2, close=BF16),
    "bf16.pure": _one("bf16", {"pure": True}, loss=2e-2, weights=1e-2, close=BF16),
    "bf16.rounding": _one("bf16", {"pure": True, "rounding": "stochastic"}, loss=2e-2, weights=1e-2, close=BF16),
    "fp16 that overflows": _one(
        "fp16", {"init_scale": 2.0**22}, loss=1e-2, weights=1e-2, close="what overflows depends on who sums"
    ),
    "fp16": _one(
        "fp16",
        {"init_scale": 64.0},
        loss=1e-2,
        weights=1e-2,
        close="sums in fp16 are rounded by what is summed, so by who sums",
    ),
    "fp8": _one(
        "fp8", {"emulate": True}, loss=5e-2, weights=2e-2, close="a scale is that of a micro-batch", needs="torchao"
    ),
    "tf32": _one("tf32", untried=GPU),
    "classification": Cell({"classification": {}, "balanced": {}}),
    "classification with lora": _one("classification", also={"lora": {"rank": 4}}, needs="peft"),
    "several labels": _one("classification", {"label": "tags", "class_weights": "balanced"}),
    "numbers": _one("classification", {"label": "score", "text": ["text", "label"]}),
    "chat": _one(
        "chat",
        {"question": "label", "answer": "text", "template": "chat.jinja"},
        also={"packing": {}, "chunked_loss": {"chunk": 16}},
    ),
    "token_classification": Cell({"token_classification": {}}, fields={"model": "encoder", "data": "words.jsonl"}),
    "preference": Cell({"preference": {}}, fields={"data": "pairs.jsonl"}),
    "preference under lora": _one(
        "preference", {"loss": "ipo"}, also={"lora": {"rank": 4}}, fields={"data": "pairs.jsonl"}, needs="peft"
    ),
    "seq2seq": _one("seq2seq", {"source": "text", "target": "label"}, fields={"model": "pair"}),
    "masked_lm": _one("masked_lm", {"whole_words": True}, fields={"model": "encoder"}),
    "packing": _one("packing"),
    "padding": Cell({"padding": {}, "shuffle": {}, "linear": {}, "causal_lm": {}}),
    "weighted": Cell({"weighted": {"column": "weight"}, "cosine": {}, "progress": {}, "guard": {}}),
    "mixture": Cell({"mixture": {}, "constant": {}}, fields={"data": {"a": "rows.jsonl", "b": "more.jsonl"}}),
    "length_grouped": Cell({"length_grouped": {}, "wsd": {}}),
    "curriculum": Cell({"curriculum": {}, "polynomial": {}}),
    "sequential": Cell({"sequential": {}, "inverse_sqrt": {}}),
    "best": Cell({"best": {}, "early_stopping": {"patience": 1}}),
    "one_cycle": _one("one_cycle"),
    "samples": _one("samples", {"prompts": ["the order"], "max_new_tokens": 4}),
    "hf_trainer": _one("hf_trainer"),
    "callbacks": _one("callbacks", {"classes": ["transformers:EarlyStoppingCallback"], "best": "eval_loss"}),
    "monitor": _one("monitor", {"rate": 1e12}),
    "profile": _one("profile", {"start": 2, "steps": 1}),
    "tensorboard": _one("tensorboard", needs="tensorboard"),
    "trackio": _one("trackio", needs="trackio"),
    "wandb": _one("wandb", untried="needs an account"),
    "mlflow": _one("mlflow", untried="needs a server"),
}
"""Tied embeddings, AdamW, fp32 and three micro-batches of two sequences, wherever a cell says nothing else."""
_PRECISIONS = {"fp32", "bf16", "fp16", "fp8", "tf32", "auto_precision"}


def config(cell: Cell, backend: str) -> dict[str, Any]:
    """Return the config of a cell's run."""
    own = cell.plugins | cell.also
    usual: dict[str, Any] = {} if "model_tokenizer" in own or "model" in cell.fields else {"bpe": {"vocab_size": 280}}
    if "model" not in cell.fields:
        sizes = {"hidden_size": 32, "layers": 2, "heads": 4, "max_positions": 48}
        own = own | {"scratch": sizes | own.get("scratch", {})}
    if not _PRECISIONS & own.keys():
        usual["fp32"] = {}
    if "bpe" in own:
        own = own | usual
    chosen = BACKENDS.get(backend, {})
    return {
        "data": "rows.jsonl", "seq_length": 48, "batch_size": 6, "micro_batch_size": 2, "steps": STEPS,
        "save_every": SAVED, "eval_every": SAVED, "nproc": 2 if chosen else 1,
    } | cell.fields | {"plugins": usual | own | chosen}  # fmt: skip


def folder_of_rows(path: Path) -> Path:
    """Write the rows of all cells into a folder, and return it."""
    rng = random.Random(0)
    words = [
        "the",
        "order",
        "of",
        "samples",
        "is",
        "a",
        "pure",
        "function",
        "seed",
        "data",
        "run",
        "killed",
        "goes",
        "on",
    ]
    (path / "chat.jinja").write_text(
        "{% for message in messages %}{{ message.role + ': ' + message.content + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    _write_models(path, words)
    for name, count in (("rows", 120), ("more", 60)):
        with (path / f"{name}.jsonl").open("w") as file:
            for number in range(count):
                text = " ".join(rng.choices(words, k=rng.choice([3, 9, 30])))
                row = {"text": text, "label": "even" if number % 2 else "odd", "weight": 1 + number % 3}
                row |= {"tags": [word for word in ("seed", "data", "run") if word in text], "score": len(text) / 100}
                file.write(json.dumps(row) + "\n")
    with (path / "pairs.jsonl").open("w") as file:
        for _ in range(60):
            right, wrong = " ".join(rng.choices(words, k=2)), " ".join(rng.choices(words, k=rng.choice([2, 5])))
            file.write(json.dumps({"prompt": rng.choice(words) + " ", "chosen": right, "rejected": wrong}) + "\n")
    with (path / "words.jsonl").open("w") as file:
        for _ in range(80):
            tokens = rng.choices(words, k=rng.choice([3, 9, 20]))
            tags = ["B-X" if token[0] in "aeiou" else "O" for token in tokens]
            file.write(json.dumps({"tokens": tokens, "tags": tags}) + "\n")
    return path


def _write_models(folder: Path, words: list[str]) -> None:
    """Write a tiny encoder, and a tiny encoder with a decoder, whose tokens are the halves of the words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    halves = [*(word[:2] for word in words), *(f"##{word[2:]}" for word in words if word[2:])]
    pieces = dict.fromkeys(["[PAD]", "[MASK]", "[UNK]", "[END]", "even", "odd", *halves])
    table = {piece: number for number, piece in enumerate(pieces)}
    body = Tokenizer(models.WordPiece(table, unk_token="[UNK]"))
    body.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=body, mask_token="[MASK]", pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder / "encoder")
    body.post_processor = processors.TemplateProcessing("$A [END]", None, [("[END]", table["[END]"])])
    PreTrainedTokenizerFast(
        tokenizer_object=body, pad_token="[PAD]", unk_token="[UNK]", eos_token="[END]"
    ).save_pretrained(folder / "pair")
    torch.manual_seed(0)
    encoder = BertConfig(
        vocab_size=len(table), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=48, pad_token_id=0, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    BertForMaskedLM(encoder).save_pretrained(folder / "encoder")
    pair = T5Config(
        vocab_size=len(table), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0,
        pad_token_id=0, decoder_start_token_id=0, eos_token_id=table["[END]"],
    )  # fmt: skip
    T5ForConditionalGeneration(pair).save_pretrained(folder / "pair")


# ── the driver ───────────────────────────────────────────────────────────────────────────────────────────────────────


def drive(folder: Path, backend: str, wanted: list[str], rank: int) -> None:
    """Train the cells of a backend in this process, one of its ranks."""
    outcomes: dict[str, Any] = {}
    for name in wanted or runnable(backend):
        began = time.perf_counter()
        error = _trained(folder / backend / slug(name), CELLS[name], backend, rank)
        outcomes[name] = {"error": error, "seconds": round(time.perf_counter() - began, 2)}
        # Each run of several processes collects garbage as it ends, and need not look through what was imported.
        gc.collect()
        gc.freeze()
        if rank == 0:
            (folder / f"{backend}.json").write_text(json.dumps(outcomes, indent=1))


def runnable(backend: str) -> list[str]:
    """Return the cells that can be run here and are not refused."""
    return [
        name
        for name, cell in CELLS.items()
        if not cell.untried and (not cell.needs or find_spec(cell.needs)) and not refusals(cell, backend)
    ]


def refusals(cell: Cell, backend: str) -> list[str]:
    """Return why a backend is refused, before torch is imported."""
    alone = set(_problems(cell, ALONE))
    return [message for message in _problems(cell, backend) if message not in alone]


def _problems(cell: Cell, backend: str) -> list[str]:
    from hfx.api import problems
    from hfx.resolve import resolve

    return [problem.message for problem in problems(resolve(mapping=config(cell, backend))) if problem.fatal]


def slug(name: str) -> str:
    """Return a cell's folder."""
    return name.replace(" ", "-").replace("'", "")


def _trained(place: Path, cell: Cell, backend: str, rank: int) -> str:
    """Train a cell as a whole, then from its second step on, and return the error that ended it."""
    import hfx

    whole, resumed = place / "whole", place / "resumed"
    settings = config(cell, backend)
    try:
        hfx.train(settings, output=str(whole))
        if rank == 0:
            _cut(whole, resumed)
        _wait(resumed)
        hfx.train(settings, output=str(resumed), resume="auto")
    except Exception as error:  # noqa: BLE001 - what a cell says is its outcome
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return ""


def _cut(whole: Path, resumed: Path) -> None:
    """Copy a run as it was when its second step was saved."""
    partial = resumed.with_name("partial")
    shutil.copytree(whole, partial, ignore=shutil.ignore_patterns("model*", f"step-{STEPS:08d}", "profile", ".lock"))
    partial.rename(resumed)


def _wait(folder: Path) -> None:
    while not folder.exists():
        time.sleep(0.01)


# ── what is refused, and the page ────────────────────────────────────────────────────────────────────────────────────

NAMES = {"ddp": "`ddp`", "fsdp": "`fsdp`", "zero1": "`zero` 1", "zero2": "`zero` 2", "zero3": "`zero` 3"}

PAGE = """# Plugins on backends

What each plugin does on two processes.

- `same`: the losses are those of one process to within 1e-4, and the exported weights to within a relative distance of
  1e-3. A run that is resumed from its second step ends with the same bits.
- `near`: resumed to the bit, too, but not as near to one process, for the reason below.
- `refused`: the run ends before it begins, with exit code 2 and what is quoted below.

Where a line says nothing else, the model is in fp32 with tied embeddings, the optimizer is AdamW, and a step is three
micro-batches of two sequences. `tests/faults/test_plugins_on_backends.py` runs all of it on CPUs; this page is written
by `python tests/backend_cells.py --page`.
"""


def all_refusals() -> dict[str, dict[str, list[str]]]:
    """Return the refusals by backend and cell."""
    found = {backend: {name: refusals(cell, backend) for name, cell in CELLS.items()} for backend in BACKENDS}
    return {backend: {name: said for name, said in of.items() if said} for backend, of in found.items()}


def page(refused: dict[str, dict[str, list[str]]]) -> str:
    """Return the page: a line for each cell, a column for each backend, and why below."""
    notes: list[str] = []

    def note(text: str) -> str:
        if text not in notes:
            notes.append(text)
        return f"[{notes.index(text) + 1}]"

    lines = []
    for name, cell in CELLS.items():
        if cell.untried:
            entries = [f"untried {note(cell.untried)}"] * len(BACKENDS)
        else:
            entries = [
                f"refused {note(refused[backend][name][0])}"
                if name in refused[backend]
                else f"near {note(cell.close)}"
                if cell.close
                else "same"
                for backend in BACKENDS
            ]
        shown = ", ".join(f"`{plugin}`" for plugin in cell.plugins)
        what = f"{shown} ({name})" if name not in cell.plugins else shown
        lines.append(f"| {what} | {' | '.join(entries)} |")
    footnotes = [f"{number}. {text}" for number, text in enumerate(notes, 1)]
    heads = [f"| plugins | {' | '.join(NAMES.values())} |", f"|---|{'---|' * len(NAMES)}"]
    return "\n".join([PAGE, *heads, *lines, "", *footnotes, ""])


if __name__ == "__main__":
    if sys.argv[1] == "--page":
        print(page(all_refusals()), end="")
    elif sys.argv[1] == "--refusals":
        print(json.dumps({"refused": all_refusals(), "torch": "torch" in sys.modules}))
    else:
        os.chdir(sys.argv[1])
        drive(Path.cwd(), sys.argv[2], sys.argv[3:], int(os.environ.get("RANK", "0")))
