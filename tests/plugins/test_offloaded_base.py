"""Adapters over a base whose weights lie on disk: the losses of one in memory, in less memory than the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from command_line import environment, hfx
from hfx.testing.tiny import tiny_rows, write_rows

pytest.importorskip("peft")
WORDS = (
    "train", "--data", "rows.jsonl", "--steps", "4", "--batch-size", "4", "--seq-length", "32", "--eval-every", "2",
    "--log-every", "1", "--plugin", "fp32", "--plugin", "gradient_checkpointing", "--plugin", "lora",
    "--lora.save", "adapters", "--causal-lm.text", "text",
)  # fmt: skip
EXACT = ("step", "loss", "grad_norm", "eval_loss")


def write_model(folder: Path, **sizes: int) -> int:
    """Write a llama with the byte-level tokenizer of its run, and return the bytes of its weights."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), num_attention_heads=4, max_position_embeddings=64, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, **sizes,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return sum(parameter.nbytes for parameter in model.parameters())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "base", hidden_size=64, intermediate_size=128, num_hidden_layers=4)
    write_rows(tiny_rows(), tmp_path / "rows.jsonl")
    return tmp_path


def lines(run: Path) -> list[dict[str, Any]]:
    return [
        {key: line.get(key) for key in EXACT}
        for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    ]


def train(folder: Path, *words: str) -> Path:
    done = hfx(*WORDS, "--model", "base", *words, cwd=folder, HFX_CACHE=str(folder / "cache"))
    assert done.returncode == 0, done.stderr
    return folder / words[words.index("--output") + 1]


ON_DISK = ("--pretrained.device-map", "auto", "--pretrained.max-memory", '{"cpu": "150KiB"}')


@pytest.mark.slow
def test_losses_are_those_of_a_base_in_memory_and_a_resumed_run_goes_on_to_the_bit(folder: Path) -> None:
    whole = train(folder, "--output", "whole")
    offloaded = train(folder, "--output", "offloaded", *ON_DISK)
    assert lines(offloaded) == lines(whole)
    assert (offloaded / "model" / "adapter_config.json").exists()

    train(folder, "--output", "parts", "--steps", "2", *ON_DISK)
    resumed = train(folder, "--output", "parts", "--steps", "4", "--resume", "auto", *ON_DISK)
    assert [line["step"] for line in lines(resumed)] == [line["step"] for line in lines(whole)]
    assert not list((folder / "cache").glob("offload-*"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--lora.save", "merged"), "cannot be merged into weights that lie on disk; set 'lora.save'"),
        (("--lora.variant", "dora"), "DoRA looks at weights that lie on disk"),
        (("--plugin", "no:lora"), "cannot be trained there; add '--plugin lora'"),
    ],
)
def test_what_needs_the_weights_is_refused_with_the_way_out(folder: Path, words: tuple[str, ...], told: str) -> None:
    own = [word for word in WORDS if words[-1] != "no:lora" or word not in ("--lora.save", "adapters")]
    done = hfx(*own, "--model", "base", "--output", "refused", *ON_DISK, *words, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert not (folder / "refused").exists()


def test_a_limit_without_a_map_is_refused(folder: Path) -> None:
    done = hfx(*WORDS, "--model", "base", "--output", "x", *ON_DISK[2:], cwd=folder)
    assert done.returncode == 2
    assert "needs a 'pretrained.device_map'" in done.stderr


@pytest.mark.slow
def test_a_run_holds_less_than_the_weights_of_its_base(tmp_path: Path) -> None:
    """Memory that the kernel could take back at any time, the mapped files of the weights, is not held."""
    import subprocess
    import sys

    size = write_model(tmp_path / "base", hidden_size=1024, intermediate_size=4096, num_hidden_layers=16)
    write_rows(tiny_rows(), tmp_path / "rows.jsonl")
    peak = tmp_path / "peak"
    words = [*WORDS, "--model", "base", "--output", "run", *ON_DISK[:3], '{"cpu": "100MiB"}']
    code = (
        "import pathlib, re, sys, threading, time\n"
        f"sys.argv = ['hfx', *{words!r}]\n"
        "most = 0\n"
        "def look():\n"
        "    global most\n"
        "    while True:\n"
        "        held = int(re.search(r'RssAnon:\\s+(\\d+)', open('/proc/self/status').read())[1]) * 1024\n"
        "        most = max(most, held)\n"
        "        time.sleep(0.02)\n"
        "threading.Thread(target=look, daemon=True).start()\n"
        "from hfx.__main__ import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        f"    pathlib.Path({str(peak)!r}).write_text(str(most))\n"
    )
    prompt = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "HFX_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(**prompt),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    held = int(peak.read_text())
    print(f"weights {size / 2**20:.0f} MiB, held at most {held / 2**20:.0f} MiB, libraries included")
    assert held < size
