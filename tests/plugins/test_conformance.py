"""Every built-in plugin passes every check of the conformance kit, as a third party's has to."""

from __future__ import annotations

import atexit
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from hfx.discovery import OWN, found
from hfx.testing import Check, plugin_checks
from hfx.testing.general import PLUGIN
from hfx.testing.tiny import tiny_rows, without_bars, write_rows

KIT = Path(tempfile.mkdtemp(prefix="hfx-conformance-"))
"""Rows for sources that read no file of the kit."""
atexit.register(shutil.rmtree, KIT, ignore_errors=True)
(KIT / "hub").mkdir()
write_rows(tiny_rows(), KIT / "hub" / "train.jsonl")
with closing(sqlite3.connect(KIT / "kit.db")) as connection, connection:
    connection.execute("CREATE TABLE reviews (id INTEGER PRIMARY KEY, text TEXT, label TEXT)")
    connection.executemany("INSERT INTO reviews (text, label) VALUES (:text, :label)", tiny_rows())
(KIT / "chat.jinja").write_text(
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
# An encoder with a mask token, which the tokenizers that hfx makes itself have not.
SIGNS = [*map(chr, range(97, 123)), *map(str, range(10))]
PIECES = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *SIGNS, *(f"##{sign}" for sign in SIGNS)]
BODY = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(PIECES)}, unk_token="[UNK]"))
BODY.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(
    tokenizer_object=BODY, mask_token="[MASK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
).save_pretrained(KIT / "encoder")
with without_bars(), torch.random.fork_rng():
    torch.manual_seed(0)
    BertForMaskedLM(
        BertConfig(vocab_size=len(PIECES), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                   intermediate_size=64, max_position_embeddings=64, pad_token_id=0)
    ).save_pretrained(KIT / "encoder")  # fmt: skip
BODY.post_processor = processors.TemplateProcessing("$A [SEP]", None, [("[SEP]", PIECES.index("[SEP]"))])
PreTrainedTokenizerFast(tokenizer_object=BODY, pad_token="[PAD]", eos_token="[SEP]").save_pretrained(KIT / "pair")
with without_bars(), torch.random.fork_rng():
    torch.manual_seed(0)
    T5ForConditionalGeneration(
        T5Config(vocab_size=len(PIECES), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, pad_token_id=0,
                 decoder_start_token_id=0, eos_token_id=2)
    ).save_pretrained(KIT / "pair")  # fmt: skip
CHAT = {"question": "label", "answer": "text", "template": str(KIT / "chat.jinja")}
(KIT / "weights.txt").write_text("1\n2\n" * 20)

OTHERWISE: dict[str, list[dict[str, Any]]] = {
    # All of it is read, and parsed, at every check.
    "stdlib": [{"limit": 60}, {"limit": 60, "row": "file", "packages": ["json", "collections"]}],
    "weighted": [{"file": str(KIT / "weights.txt")}, {"file": str(KIT / "weights.txt"), "replacement": False}],
    "balanced": [{}, {"mode": "under"}, {"shares": {"even": 1, "odd": 3}}],
    "length_grouped": [{}, {"batches": 2}],
    "curriculum": [{}, {"descending": True, "buckets": 3}],
    "stream": [{"block": 15}],
    "hub": [{"dataset": str(KIT / "hub")}],
    "sql": [{"database": str(KIT / "kit.db"), "table": "reviews", "order_by": "id"}],
    "files": [{}, {"columns": ["text", "label"]}],
    "html": [{}, {"main_text": True}],
    "normalize": [{}, {"encoding": False, "columns": ["text"]}],
    "quality": [{"rules": ["gopher"], "gopher_min_words": 20, "splitter": kind} for kind in ("regex", "spacy")],
    "language": [{"min_probability": 0.0}, {"min_probability": 0.0, "column": "language", "columns": ["text"]}],
    "pii": [{}, {"action": "drop"}],
    "exact_dedup": [{}, {"lowercase": True, "collapse_whitespace": False}],
    "near_dedup": [{}, {"threshold": 0.8, "ngram": 3}],
    "bpe": [{}, {"vocab_size": 270}],
    "causal_lm": [
        {},
        {"overflow": "rolling"},
        {"overflow": "truncate", "side": "left"},
        {"append_eos": False, "overflow": "drop"},
    ],
    "classification": [
        {"side": "left"},
        {"text": ["text", "label"], "class_weights": "balanced", "label_smoothing": 0.1},
        {"label": "tags", "class_weights": "balanced"},
        {"label": "score"},
    ],
    "token_classification": [{}, {"overflow": "truncate"}],
    "preference": [{}, {"loss": "ipo"}],
    "seq2seq": [
        {"source": "text", "target": "label", "scores": ["rouge", "bleu", "chrf"], "max_new_tokens": 4},
        {"source": "label", "target": "text", "label_smoothing": 0.1},
    ],
    "masked_lm": [{}, {"whole_words": True, "static": True, "overflow": "truncate"}],
    "chat": [
        CHAT | {"scores": ["rouge", "bleu", "chrf"], "max_new_tokens": 4},
        CHAT | {"train_on": "all", "system": "a warm den"},
    ],
    "packing": [{"window": 16}, {"window": 1}],
    "padding": [{}, {"pad_to_multiple_of": 8}],
    "scratch": [{}, {"architecture": "gpt2", "hidden_size": 32, "layers": 1}],
    "freeze": [{"names": ["*embed*"]}, {"only": ["*layers.1", "*norm*"]}],
    "lora": [
        {},
        {"variant": "dora", "dropout": 0.1, "targets": ["q_proj", "down_proj"]},
        {"variant": "rslora", "rank": 4, "save": "adapters"},
        {"modules_to_save": ["norm"]},
    ],
    "qlora": [{}, {"variant": "rslora", "rank": 4, "save": "adapters", "dropout": 0.1, "modules_to_save": ["norm"]}],
    "neftune": [{}, {"alpha": 15.0}],
    "gradient_checkpointing": [{}, {"every": 2}, {"keep": "matmuls"}],
    # Its default, inductor, takes most of a minute to compile; see the slow tests of `compile`.
    "compile": [{"backend": "eager"}],
    "attention": [{}, {"kernel": "eager"}],
    "activation_offload": [{}, {"min_size": 0, "to": "disk"}],
    "chunked_loss": [{}, {"chunk": 3}],
    "adamw_8bit": [{}, {"quantize_embeddings": True, "min_8bit_size": 256}],
    "lion_8bit": [{}, {"quantize_embeddings": True, "min_8bit_size": 256}],
    "adafactor": [{}, {"variant": "transformers"}],
    "ema": [{}, {"decay": 0.5, "warmup": False, "save": "both"}],
    "sgd": [{}, {"momentum": 0}, {"nesterov": True}],
    "parameter_groups": [{"layer_decay": 0.8}, {"lr": {"*embed*": 0.5}, "weight_decay": {"*": 0.2}}],
    "galore": [{"rank": 4}, {"rank": 8, "update_every": 2, "weight_decay": 0.1}],
    "muon": [{}, {"adjust_lr": "match_rms_adamw", "lr": 3e-3}],
    "constant": [{}, {"warmup": 0}],
    "wsd": [{}, {"warmup": 0, "decay": 4, "shape": "linear", "min_ratio": 0.1}],
    "polynomial": [{}, {"warmup": 5, "power": 0.5}],
    "inverse_sqrt": [{}, {"warmup": 0, "timescale": 4}],
    "one_cycle": [{}, {"warmup": 5, "min_ratio": 0.1}],
    "cosine": [{}, {"warmup": 5, "min_ratio": 0.1}],
    "bf16": [{}, {"pure": True}, {"pure": True, "rounding": "stochastic"}],
    "fp16": [{}, {"init_scale": 2.0**20, "growth_interval": 1}],
    "fp8": [{"emulate": True}, {"emulate": True, "recipe": "rowwise", "skip": ["*.layers.0"]}],
    "samples": [{"prompts": ["the quick"], "max_new_tokens": 4, "temperature": 0.5}],
    "callbacks": [
        {
            "classes": ["transformers:EarlyStoppingCallback"],
            "arguments": {"EarlyStoppingCallback": {"early_stopping_patience": 100}},
            "best": "eval_loss",
        }
    ],
    "tensorboard": [{}, {"dir": str(KIT / "board")}],
    "trackio": [{"dir": str(KIT / "trackio")}],
    "wandb": [{"mode": "offline"}],
    "profile": [{}, {"start": 2, "steps": 1, "memory": True, "shapes": True}],
}
"""Options to try a plugin with, where its defaults alone would leave something untried."""
BESIDE: dict[str, dict[str, Any]] = {
    # Of pure bf16 the default's updates are too small for norms, and lost as they are rounded to the nearest.
    "bf16": {"plugins": {"adamw": {"lr": 0.03}}},
    "masked_lm": {"model": str(KIT / "encoder")},
    "token_classification": {"model": str(KIT / "encoder")},
    "seq2seq": {"model": str(KIT / "pair")},
    "preference": {"plugins": {"lora": {}}},
    "schedule_free": {"plugins": {"constant": {}}},
    "optimizer_in_backward": {"max_grad_norm": None},
    "best": {"eval_every": 3},
    "samples": {"eval_every": 3},
    "early_stopping": {"eval_every": 3},
}
"""Config of a plugin that refuses the defaults beside it."""
ROWS = {
    "classification": [
        row | {"tags": [word for word in ("the", "and", "of") if word in row["text"]], "score": len(row["text"]) / 10}
        for row in tiny_rows()
    ],
    "token_classification": [
        {"tokens": row["text"].split(), "tags": ["B-X" if word[0] in "aeiou" else "O" for word in row["text"].split()]}
        for row in tiny_rows()
    ],
    "preference": [
        {"prompt": row["text"][:20], "chosen": row["text"][20:40] or "yes", "rejected": row["label"]}
        for row in tiny_rows()
    ],
}
"""Rows of plugins that need other columns."""
NEEDS = {"fp8": ["torchao"], "tensorboard": ["tensorboard"], "trackio": ["trackio"], "wandb": ["wandb"],
         "mlflow": ["mlflow", "sqlalchemy", "alembic"], "zero": ["deepspeed"]}  # fmt: skip
"""Packages that not every set-up of the tests has; where one is missing, the plugin's checks are skipped."""
ON_GPUS = {"tf32", "liger"}
"""Plugins that take part in no run elsewhere."""
NO_GPU = not torch.cuda.is_available()
WITHOUT_A_RUN = {str(check) for check in plugin_checks("tf32")[: len(PLUGIN)]} - {"plugin: takes part in a plain run"}
NAMES = [ref.name for ref in found() if ref.distribution == OWN]
ABSENT = {name for name, packages in NEEDS.items() if not all(map(find_spec, packages))}


def cases() -> Iterator[Any]:
    for name in NAMES:
        for number, options in enumerate(OTHERWISE.get(name, [{}])):
            for check in plugin_checks(name, options=options, config=BESIDE.get(name), rows=ROWS.get(name)):
                absent = pytest.mark.skipif(name in ABSENT, reason=f"{NEEDS.get(name)} are not installed")
                no_gpu = NO_GPU and name in ON_GPUS and str(check) not in WITHOUT_A_RUN
                elsewhere = pytest.mark.skipif(no_gpu, reason="this machine has no GPU")
                yield pytest.param(check, id=f"{name}{number or ''}: {check}", marks=[absent, elsewhere])


CASES = list(cases())


@pytest.mark.parametrize("check", CASES)
def test_a_built_in_plugin_conforms(check: Check) -> None:
    check()


def test_every_built_in_plugin_is_asked_and_the_count_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    asked = {str(case.id).partition(":")[0].rstrip("0123456789") for case in CASES}
    assert {name.rstrip("0123456789") for name in NAMES} == asked
    assert set(OTHERWISE) <= set(NAMES)
    with capsys.disabled():
        left_out = sorted(ABSENT | (ON_GPUS if NO_GPU else set()))
        skipped = f"those of {', '.join(left_out)} skipped" if left_out else "none skipped"
        print(f"\nconformance: {len(CASES)} checks of {len(NAMES)} built-in plugins, {skipped}")
