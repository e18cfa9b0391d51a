from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM, PreTrainedTokenizerFast
from transformers import get_cosine_schedule_with_warmup as cosine

import hfx as framework
from command_line import hfx
from hfx import Drop, Place, Row, RunConfig
from hfx.errors import ConfigError, ModelError
from hfx_plugins.tasks.masked_lm import MaskedLM
from kept_batches import SEEN, Batches

PIECES = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *(f"{kind}{n}" for n in range(30) for kind in ("w", "##p"))]
PAD, CLS, SEP, MASK = range(4)


def make_tokenizer(mask="[MASK]"):
    backend = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", CLS), ("[SEP]", SEP)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, mask_token=mask, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


TOKENIZER = make_tokenizer()


class Prepared:
    """What the hook reads of a run."""

    def __init__(self, seq_length, tokenizer):
        self.config = RunConfig(seq_length=seq_length)
        self.tokenizer = tokenizer


def task(seq_length=64, tokenizer=TOKENIZER, **options):
    return MaskedLM(**options).hfx_task(Prepared(seq_length, tokenizer))


def row(text):
    return Row({"text": text}, Place("data", "data.jsonl", 7))


def text(words):
    """Words of one to three pieces."""
    return " ".join(f"w{n % 30}" + "".join(f"p{(n + k) % 10}" for k in range(n % 3)) for n in range(words))


def drawn(made, example, seed=0):
    values = {name: np.asarray(value) for name, value in example.values.items()}
    return made.draw(values, np.random.default_rng(seed))


# ── what is guessed ──────────────────────────────────────────────────────────────────────────────────────────────────


@settings(deadline=None)
@given(st.integers(1, 60), st.floats(0.01, 0.9), st.booleans(), st.integers(0, 99))
def test_a_share_of_the_tokens_is_guessed_and_never_those_around_a_text(words, share, whole, seed):
    made = task(200, share=share, whole_words=whole)
    (example,) = made.examples(row(text(words)))
    values = drawn(made, example, seed)
    ids, labels, named = np.array(example.values["input_ids"]), values["labels"], np.array(example.values["words"])
    chosen = labels != -100
    assert (labels[chosen] == ids[chosen]).all()
    assert (values["input_ids"][~chosen] == ids[~chosen]).all()
    assert not chosen[np.isin(ids, (CLS, SEP))].any()
    wanted = max(1, round(share * (len(ids) - 2)))
    assert made.drawn_units(values) == chosen.sum()
    if not whole:
        assert chosen.sum() == example.units == wanted
        return
    assert wanted <= chosen.sum() < wanted + 3
    for word in np.unique(named[named >= 0]):
        assert len(set(chosen[named == word])) == 1


def test_of_the_tokens_guessed_most_are_masked_some_replaced_and_some_stay():
    made = task(4096)
    (example,) = made.examples(row(text(2000)))
    ids, values = np.array(example.values["input_ids"]), drawn(made, example)
    chosen = values["labels"] != -100
    now = values["input_ids"][chosen]
    assert (now == MASK).mean() == pytest.approx(0.8, abs=0.06)
    assert ((now != MASK) & (now != ids[chosen])).mean() == pytest.approx(0.1, abs=0.06)
    always = task(4096, masked=1, replaced=0)
    assert (drawn(always, example)["input_ids"][drawn(always, example)["labels"] != -100] == MASK).all()


def test_what_is_guessed_is_another_each_time_or_the_same_for_ever():
    for static in (False, True):
        made = task(static=static)
        (example,) = made.examples(row(text(30)))
        first, again, other = (drawn(made, example, seed) for seed in (1, 1, 2))
        assert (first["labels"] == again["labels"]).all()
        assert (first["labels"] == other["labels"]).all() == static


def test_a_long_text_is_split_cut_off_or_left_out_between_the_tokens_around_it():
    parts = task(8).examples(row(" ".join(["w1"] * 14)))
    assert [part.values["input_ids"] for part in parts] == [[CLS, *[5 + 2] * n, SEP] for n in (6, 6, 2)]
    (cut,) = task(8, overflow="truncate").examples(row(" ".join(["w1"] * 14)))
    assert (cut.length, cut.truncated) == (8, True)
    assert task(8, overflow="drop").examples(row(" ".join(["w1"] * 14))) == Drop("too_long")
    assert task().examples(row(" ")) == Drop("empty")


def test_many_rows_at_once_are_what_each_is_alone():
    for whole in (False, True):
        made = task(16, whole_words=whole)
        rows = [row(text(count)) for count in (1, 5, 40)]
        assert made.examples_of(rows) == [made.examples(each) for each in rows]


def test_a_tokenizer_without_a_mask_and_a_length_without_room_are_refused():
    with pytest.raises(ModelError, match=r"no mask token, which 'masked_lm' needs"):
        task(tokenizer=make_tokenizer(mask=None))
    with pytest.raises(ConfigError, match=r"'seq_length' 2 has no room"):
        task(2)


# ── a run ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows, and a tiny encoder."""
    path = tmp_path_factory.mktemp("masked")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(PIECES), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=PAD,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(path / "model")
    TOKENIZER.save_pretrained(path / "model")
    rows = [json.dumps({"text": text(2 + n % 19)}) for n in range(60)]
    (path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    return path


FIELDS = {"seq_length": 32, "batch_size": 6, "steps": 5, "eval_share": 0.0}


def test_the_losses_are_those_of_a_plain_loop_of_the_libraries(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HFX_CACHE", str(folder / "cache"))
    SEEN.clear()
    named = {"masked_lm": {"whole_words": True}, "fp32": {}, "adamw": {"lr": 1e-3}, "cosine": {"warmup": 0}}
    framework.train(
        {**FIELDS, "model": "model", "data": "rows.jsonl", "output": "plain", "plugins": named}, plugins=[Batches()]
    )
    ours = [json.loads(line)["loss"] for line in (folder / "plain" / "metrics.jsonl").read_text().splitlines()]
    model = AutoModelForMaskedLM.from_pretrained("model", dtype=torch.float32).train()
    decayed = [p for name, p in model.named_parameters() if "LayerNorm" not in name and "bias" not in name]
    others = [p for name, p in model.named_parameters() if "LayerNorm" in name or "bias" in name]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}], lr=1e-3
    )
    schedule = cosine(optimizer, 0, 5)
    theirs = []
    for batch in SEEN[-5:]:
        loss = model(**batch).loss
        theirs.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert theirs[0] != pytest.approx(theirs[-1], abs=1e-3)


def test_micro_batches_and_processes_change_nothing(folder):
    plugins = ("--plugin", "masked_lm", "--masked-lm.whole-words", "true", "--plugin", "fp32")
    words = ("train", "--model", "model", "--data", "rows.jsonl", *plugins, "--seq-length", "32", "--batch-size", "6",
             "--steps", "4", "--eval-every", "4", "--eval-share", "0.2")  # fmt: skip
    losses = {}
    for name, more in (("one", ()), ("small", ("--micro-batch-size", "2")), ("two", ("--nproc", "2"))):
        done = hfx(*words, *more, "--output", name, cwd=folder, HFX_CACHE=str(folder / "cache"), OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
        lines = map(json.loads, (folder / name / "metrics.jsonl").read_text().splitlines())
        losses[name] = [line[key] for line in lines for key in ("loss", "eval_loss") if key in line]
    assert len(losses["one"]) == 5
    assert losses["small"] == pytest.approx(losses["one"], abs=1e-5)
    assert losses["two"] == pytest.approx(losses["one"], abs=1e-5)
    assert (folder / "one" / "model" / "config.json").exists()
    assert "BertForMaskedLM" in (folder / "one" / "model" / "config.json").read_text()
