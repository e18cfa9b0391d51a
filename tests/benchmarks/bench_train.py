"""Real tokens a second and memory of hfx beside transformers' Trainer, TRL, Lightning Fabric and a loop by hand.

    python tests/benchmarks/bench_train.py [--rounds 3] [--steps 24] [--vocabularies 8000,50000]
        [--workloads rows,chat,paragraphs,blocks] [--only CONTENDER ...] [--text FILE] [--json FILE]

A llama of 4 layers, 256 wide, from scratch, fp32. `rows` are of some 45 tokens, at most 256; `chat` masks a prompt of
about half of each; `paragraphs` have the lengths of a text's, which `--text` names; `blocks` are full sequences of 256.
A batch is 16 rows, or 4 sequences of 256. The loop's chunks are of 256 tokens; hfx chooses 128 for such a model, and a
row has the loop's. Contenders run one after the other, each in a process of its own, for several
rounds; a figure is the median of the rounds, the first steps of each left out, and beside it stand the slowest and the
fastest. Tokens are those that are no padding.
Batches of a padded round differ in their longest row, so it takes some steps to see enough of them. Memory is what the
process held at most while it trained, above what it held when the model was loaded. Ratios are what carries over to
other machines. Peers that are not installed are left out, and said to be.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

WARM_UP = 4
SEQ_LENGTH = 256
BATCH = {"rows": 16, "packed": 4, "blocks": 4}
PACKAGES = {"TRL": "trl", "Fabric": "lightning_fabric"}
RAGGED = (
    "Trainer, padding", "TRL, padding", "TRL, bfd", "TRL, wrapped", "Fabric, padding", "loop, packed",
    "loop, packed, chunks", "hfx, padding", "hfx, packing", "hfx, packing, chunked_loss",
    "hfx, packing, chunked_loss of 256", "hfx, packing, chunked_loss, gradient_checkpointing",
)  # fmt: skip
FULL = (
    "Trainer, blocks", "loop, blocks", "loop, blocks, chunks", "hfx, blocks", "hfx, blocks, chunked_loss",
    "hfx, blocks, chunked_loss of 256", "hfx, blocks, chunked_loss, gradient_checkpointing",
)  # fmt: skip
WORKLOADS = {"rows": RAGGED, "chat": RAGGED, "paragraphs": RAGGED, "blocks": FULL}


def main() -> None:
    """Print a table for each workload and vocabulary."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--vocabularies", default="8000,50000")
    parser.add_argument("--workloads", default="rows,chat,blocks")
    every = list(dict.fromkeys(name for contenders in WORKLOADS.values() for name in contenders))
    parser.add_argument("--only", nargs="+", choices=every, metavar="CONTENDER", help="; ".join(every))
    parser.add_argument("--text", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if "paragraphs" in given.workloads and not given.text:
        parser.error("'paragraphs' needs a text; name its file with '--text'")
    results = []
    for workload in given.workloads.split(","):
        contenders = [name for name in WORKLOADS[workload] if not given.only or name in given.only]
        if not contenders:
            parser.error(f"none of the contenders of '{workload}' is named; it has {'; '.join(WORKLOADS[workload])}")
        for vocabulary in map(int, given.vocabularies.split(",")):
            with tempfile.TemporaryDirectory(prefix="hfx-bench-") as name:
                lengths = paragraphs(given.text) if workload == "paragraphs" else None
                write(Path(name), workload, vocabulary, given.steps, lengths=lengths)
                results.append(compare(Path(name), workload, vocabulary, contenders, given.rounds))
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


def compare(folder: Path, workload: str, vocabulary: int, contenders: Sequence[str], rounds: int) -> dict[str, Any]:
    """Run contenders on a workload, print their table, and return its figures."""
    table = measure(folder, contenders, rounds)
    show(f"{workload}, vocabulary {vocabulary:,}", rounds, table)
    for found in table.values():
        del found["losses"]
    return {"workload": workload, "vocabulary": vocabulary, "rounds": rounds, "cores": os.cpu_count(), "table": table}


def measure(folder: Path, contenders: Sequence[str], rounds: int) -> dict[str, dict[str, Any]]:
    """Run those contenders that are installed by turns, and return the medians of each."""
    contenders = [name for name in contenders if installed(name)]
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    peaks: dict[str, list[int]] = {name: [] for name in contenders}
    losses: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name in contenders:
            told = run(folder, name)
            taken = told["steps"][WARM_UP:]
            rates[name].append(sum(line["tokens"] for line in taken) / sum(line["seconds"] for line in taken))
            peaks[name].append(told["peak_bytes"] - told["loaded_bytes"])
            losses[name] = [line["loss"] for line in told["steps"]]
    return {
        name: {
            "tokens_per_second": median(rates[name]),
            "rounds": rates[name],
            "peak_bytes": median(peaks[name]),
            "last_loss": losses[name][-1],
            "losses": losses[name],
        }
        for name in contenders
    }


def show(title: str, rounds: int, table: dict[str, dict[str, Any]]) -> None:
    """Print what was measured, against the first contender."""
    first = next(iter(table.values()))
    print(f"\n{title}, {rounds} rounds, {os.cpu_count()} cores\n")
    print("| contender | tokens/s | of the rounds | ratio | GiB above the model | ratio | last loss |")
    print("|---|---|---|---|---|---|---|")
    for name, found in table.items():
        speed, peak = found["tokens_per_second"], found["peak_bytes"]
        print(
            f"| {name} | {speed:,.0f} | {min(found['rounds']):,.0f} to {max(found['rounds']):,.0f} "
            f"| {speed / first['tokens_per_second']:.2f} | {peak / 2**30:.2f} "
            f"| {peak / first['peak_bytes']:.2f} | {found['last_loss']:.3f} |",
            flush=True,
        )


def installed(contender: str) -> bool:
    """Say whether a contender's package is there, and where it is not, print so."""
    package = PACKAGES.get(contender.partition(",")[0])
    there = package is None or find_spec(package) is not None
    if not there:
        print(f"'{contender}' is left out: '{package}' is not installed", file=sys.stderr)
    return there


def run(folder: Path, contender: str) -> dict[str, Any]:
    """Let a contender train, and return what it wrote."""
    environ = os.environ | {
        "HFX_CACHE": str(folder / "cache"), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    # Without bytecode hfx, installed editable, would be compiled anew in each process, and no other package.
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    script = Path(__file__).with_name("train_contenders.py")
    done = subprocess.run(
        [sys.executable, str(script), contender, str(folder)], env=environ, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"'{contender}' failed:\n{done.stderr[-3000:]}")
    told: dict[str, Any] = json.loads((folder / f"{contender}.json").read_text())
    return told


# ── workloads ────────────────────────────────────────────────────────────────────────────────────────────────────────


def write(
    folder: Path,
    workload: str,
    vocabulary: int,
    steps: int,
    rows: int = 2_000,
    hidden_size: int = 256,
    intermediate_size: int = 768,
    layers: int = 4,
    lengths: list[int] | None = None,
) -> None:
    """Write model, tokenizer, rows (of some lengths) and what the contenders have to know."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = [f"w{number}" for number in range(vocabulary - 3)]
    table = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", *words])}
    made = Tokenizer(models.WordLevel(table, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(folder / "model")
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden_size, intermediate_size=intermediate_size, num_hidden_layers=layers,
        num_attention_heads=hidden_size // 64, max_position_embeddings=SEQ_LENGTH,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    rng = random.Random(0)
    with (folder / "rows.jsonl").open("w") as file:
        for length in lengths or [_length(workload, rng) for _ in range(rows)]:
            row = {"text": " ".join(rng.choices(words, k=length))}
            if workload == "chat":
                text = row["text"].split()
                half = max(1, round(len(text) * rng.uniform(0.3, 0.7)))
                row = {"prompt": " ".join(text[:half]), "text": " ".join(text[half:])}
            file.write(json.dumps(row) + "\n")
    spec = {"steps": steps, "seq_length": SEQ_LENGTH, "batch": BATCH, "prompts": workload == "chat"}
    (folder / "spec.json").write_text(json.dumps(spec))


def paragraphs(text: Path) -> list[int]:
    """Return the words of a text's paragraphs, at most a sequence's; its words are left behind, only lengths count."""
    found = [len(paragraph.split()) for paragraph in text.read_text().split("\n\n")]
    return [min(length, SEQ_LENGTH - 1) for length in found if length]


def _length(workload: str, rng: random.Random) -> int:
    if workload == "blocks":
        return SEQ_LENGTH - 1  # and the end token
    return max(4, min(SEQ_LENGTH - 1, round(rng.lognormvariate(3.5, 0.75))))


if __name__ == "__main__":
    main()
