from __future__ import annotations

import json
import re

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForSeq2SeqLM, BartConfig, PreTrainedTokenizerFast, T5Config
from transformers import get_cosine_schedule_with_warmup as cosine
from transformers.trainer_pt_utils import LabelSmoother

import hfx as framework
from command_line import hfx
from hfx import Drop, Place, Row, RunConfig
from hfx.errors import ConfigError, DataError, ModelError
from hfx_plugins.tasks.seq2seq import Seq2Seq
from kept_batches import SEEN, Batches

WORDS = ["<pad>", "</s>", "<unk>", "summarize", ":", *(f"w{n}" for n in range(40)), *(f"v{n}" for n in range(40))]
PAD, END = 0, 1


def make_tokenizer(pad="<pad>"):
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", END)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=pad, eos_token="</s>", unk_token="<unk>")


TOKENIZER = make_tokenizer()


class Prepared:
    """What the hook reads of a run."""

    def __init__(self, seq_length, tokenizer):
        self.config = RunConfig(seq_length=seq_length)
        self.tokenizer = tokenizer


def task(seq_length=16, tokenizer=TOKENIZER, **options):
    return Seq2Seq(**options).hfx_task(Prepared(seq_length, tokenizer))


def row(**values):
    return Row(values, Place("data", "data.jsonl", 7))


def ids(*words):
    return [WORDS.index(word) for word in words]


# ── pairs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({}, {"source": "w1 w2", "target": "v3"}),
        ({}, {"document": "w1 w2", "summary": "v3", "id": "x"}),
        ({}, {"article": "w1 w2", "highlights": "v3"}),
        ({"source": "en", "target": "de"}, {"translation": {"de": "v3", "en": "w1 w2"}}),
        ({"source": "a", "target": "b"}, {"a": "w1 w2", "b": "v3"}),
    ],
)
def test_a_row_is_the_tokens_of_its_source_and_of_its_target(options, values):
    (example,) = task(**options).examples(row(**values))
    assert example.values == {
        "input_ids": [*ids("w1", "w2"), END], "target": [*ids("v3"), END], "target_text": "v3"
    }  # fmt: skip
    assert (example.length, example.units, example.truncated) == (3, 2, False)


def test_a_prefix_comes_before_every_source():
    (example,) = task(prefix="summarize : ").examples(row(source="w1", target="v1"))
    assert example.values["input_ids"] == [*ids("summarize", ":", "w1"), END]


def test_what_is_too_long_is_cut_before_its_end_or_left_out():
    long = row(source="w1 w2 w3 w4 w5", target="v1 v2 v3 v4")
    (example,) = task(4, target_length=3).examples(long)
    assert example.values == {
        "input_ids": [*ids("w1", "w2", "w3"), END], "target": [*ids("v1", "v2"), END], "target_text": "v1 v2 v3 v4"
    }  # fmt: skip
    assert example.truncated
    assert task(4, overflow="drop").examples(long) == Drop("too_long")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"source": None, "target": "v1"}, "no_source"),
        ({"source": "w1", "target": 3}, "no_target"),
        ({"source": " ", "target": "v1"}, "empty_source"),
        ({"source": "w1", "target": ""}, "empty_target"),
    ],
)
def test_rows_without_one_of_both_are_left_out_for_their_reason(values, reason):
    assert task().examples(row(**values)) == Drop(reason)


def test_many_rows_at_once_are_what_each_is_alone():
    made = task()
    rows = [row(source="w1", target="v1"), row(source="", target="v1"), row(source="w1 w2", target="v2 v3")]
    assert made.examples_of(rows) == [made.examples(each) for each in rows]


def test_columns_that_nobody_knows_and_a_translation_without_a_way_are_refused():
    with pytest.raises(DataError, match=r"data\.jsonl:7: no columns that are a source and a target.*'a', 'b'"):
        task().examples(row(a="w1", b="v1"))
    with pytest.raises(DataError, match="'translation' has 'de', 'en'; say which way"):
        task().examples(row(translation={"de": "v1", "en": "w1"}))
    with pytest.raises(ModelError, match="no pad token"):
        task(tokenizer=make_tokenizer(pad=None))
    with pytest.raises(ConfigError, match="no room"):
        task(1)


# ── a run ────────────────────────────────────────────────────────────────────────────────────────────────────────────

MODELS = {
    "t5": T5Config(
        vocab_size=len(WORDS), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0,
        decoder_start_token_id=PAD, pad_token_id=PAD, eos_token_id=END,
    ),
    "bart": BartConfig(
        vocab_size=len(WORDS), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64, dropout=0.0,
        attention_dropout=0.0, pad_token_id=PAD, eos_token_id=END, bos_token_id=PAD, decoder_start_token_id=END,
        forced_eos_token_id=END,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows, whose target is the source in other words, and two tiny models."""
    path = tmp_path_factory.mktemp("pairs")
    torch.manual_seed(0)
    for name, config in MODELS.items():
        AutoModelForSeq2SeqLM.from_config(config).save_pretrained(path / name)
        TOKENIZER.save_pretrained(path / name)
    rows = []
    for n in range(90):
        said = [(n * 7 + k * 3) % 40 for k in range(1 + n % 7)]
        rows.append({"source": " ".join(f"w{k}" for k in said), "target": " ".join(f"v{k}" for k in said)})
    (path / "rows.jsonl").write_text("".join(json.dumps(values) + "\n" for values in rows))
    return path


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", MODELS)
def test_the_losses_are_those_of_a_plain_loop_of_the_libraries(name, smoothing, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HFX_CACHE", str(folder / "cache"))
    SEEN.clear()
    named = {"seq2seq": {"label_smoothing": smoothing}, "fp32": {}, "adamw": {"lr": 3e-3, "weight_decay": 0},
             "cosine": {"warmup": 0}}  # fmt: skip
    fields = {"seq_length": 16, "batch_size": 6, "steps": 5, "eval_share": 0.0, "data": "rows.jsonl", "model": name}
    output = f"plain-{name}-{smoothing}"
    framework.train({**fields, "output": output, "plugins": named}, plugins=[Batches()])
    ours = [json.loads(line)["loss"] for line in (folder / output / "metrics.jsonl").read_text().splitlines()]
    model = AutoModelForSeq2SeqLM.from_pretrained(name, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    schedule, smoothed = cosine(optimizer, 0, 5), LabelSmoother(smoothing)
    theirs = []
    for batch in SEEN[-5:]:
        found = model(**batch)
        loss = smoothed(found, batch["labels"]) if smoothing else found.loss
        theirs.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert theirs[0] != pytest.approx(theirs[-1], abs=1e-3)


def test_two_processes_and_a_loss_in_chunks_change_nothing(folder):
    words = ("train", "--model", "t5", "--data", "rows.jsonl", "--plugin", "seq2seq", "--plugin", "fp32",
             "--seq-length", "16", "--batch-size", "6", "--steps", "4", "--eval-share", "0.2")  # fmt: skip
    losses = {}
    ways = {"one": (), "small": ("--micro-batch-size", "2"), "two": ("--nproc", "2"),
            "chunks": ("--plugin", "chunked_loss")}  # fmt: skip
    for name, more in ways.items():
        done = hfx(*words, *more, "--output", name, cwd=folder, HFX_CACHE=str(folder / "cache"), OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
        assert "detected   seq2seq: sources in 'source', targets in 'target' (70 rows)" in done.stderr
        [sample] = [line for line in done.stderr.splitlines() if line.startswith("sample")]
        assert re.search(r"w\d+ </s> -> \[v\d+ .*</s>\]   \(loss", sample)
        lines = map(json.loads, (folder / name / "metrics.jsonl").read_text().splitlines())
        losses[name] = [line[key] for line in lines for key in ("loss", "eval_loss") if key in line]
    assert len(losses["one"]) == 5
    for name in ways:
        assert losses[name] == pytest.approx(losses["one"], abs=1e-5), name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--plugin", "chunked_loss", "--seq2seq.label-smoothing", "0.1"),
            "'chunked_loss' each bring a loss",
        ),
        (("--plugin", "packing"), "'packing' puts several examples into a sequence, and 'seq2seq' has two"),
        (("--seq2seq.source", "a"), "go together; add '--seq2seq.target COLUMN'"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_read(words, said):
    done = hfx("train", "--plugin", "seq2seq", *words, "--dry-run")
    assert done.returncode == 2
    assert said in done.stderr
