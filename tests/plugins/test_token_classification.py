from __future__ import annotations

import json
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForTokenClassification,
    BertConfig,
    BertForTokenClassification,
    PreTrainedTokenizerFast,
)
from transformers import get_cosine_schedule_with_warmup as cosine

import hfx as framework
from command_line import hfx
from hfx import Drop, Place, Plugin, Row, RunConfig, hookimpl
from hfx.errors import ConfigError, DataError, ModelError
from hfx_plugins.tasks.entities_impl import Found, are_entities, entities
from hfx_plugins.tasks.token_classification import TokenClassification
from kept_batches import SEEN, Batches

PIECES = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *(f"{kind}{n}" for n in range(30) for kind in ("w", "##p"))]
PAD, CLS, SEP, UNK = range(4)


def make_tokenizer(pad="[PAD]"):
    backend = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", CLS), ("[SEP]", SEP)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=pad, cls_token="[CLS]", sep_token="[SEP]")


TOKENIZER = make_tokenizer()


class Prepared:
    """What the hook reads of a run."""

    def __init__(self, seq_length, tokenizer):
        self.config = RunConfig(seq_length=seq_length)
        self.tokenizer = tokenizer


def task(rows=(), seq_length=64, tokenizer=TOKENIZER, **options):
    made = TokenClassification(**options).hfx_task(Prepared(seq_length, tokenizer))
    return made.fitted(made.fit(rows)) if rows else made


def row(**values):
    return Row(values, Place("data", "data.jsonl", 7))


def ids(*pieces):
    return [PIECES.index(piece) for piece in pieces]


NAMED = row(tokens=["w1p2", "w3", "w4p5p6"], tags=["B-PER", "O", "I-PER"])

# ── words and labels ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_words_first_token_carries_its_label_and_no_other_does():
    made = task([NAMED])
    assert made.known == ("B-PER", "I-PER", "O")
    assert made.model_options["id2label"] == {0: "B-PER", 1: "I-PER", 2: "O"}
    (example,) = made.examples(NAMED)
    assert example.values["input_ids"] == [CLS, *ids("w1", "##p2", "w3", "w4", "##p5", "##p6"), SEP]
    assert example.values["labels"] == [-100, 0, -100, 2, 1, -100, -100, -100]
    assert (example.length, example.units) == (8, 3)


def test_labels_may_be_numbers_with_names_or_without():
    numbered = row(words=["w1", "w2"], ner_tags=[0, 2])
    assert task([numbered]).known == ("0", "1", "2")
    named = task([numbered], names=["O", "B-PER", "I-PER"])
    assert named.known == ("O", "B-PER", "I-PER")
    assert named.examples(numbered)[0].values["labels"] == [-100, 0, 2, -100]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"tokens": ["w1", "w2"], "tags": ["O", 1]}, "labels are numbers and names"),
        ({"tokens": ["w1", "w2"], "tags": ["O", "O"]}, "one label only"),
        ({"tokens": ["w1"], "tags": [-1]}, "is below zero"),
        ({"one": ["w1"], "two": ["w2"], "tags": ["O"]}, "several columns hold a list of words; name it with --token-"),
        ({"text": "w1", "tags": [1]}, "no column holds a list of words"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_with_its_place(values, said):
    with pytest.raises(DataError, match=said):
        task([row(**values)])


def test_a_number_without_a_name_and_a_name_that_is_not_given_are_refused():
    with pytest.raises(DataError, match=r"label 2 in data\.jsonl:7 has no name among the 2"):
        task([row(tokens=["w1"], tags=[2])], names=["O", "B-X"])
    with pytest.raises(DataError, match=r"label 'C' in data\.jsonl:7 is none of"):
        task([row(tokens=["w1", "w2"], tags=["O", "C"])], names=["O", "B-X"])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"tokens": ["w1"], "tags": ["O", "O"]}, "words_and_labels_differ_in_number"),
        ({"tokens": [], "tags": []}, "empty"),
        ({"tokens": None, "tags": ["O"]}, "no_words"),
        ({"tokens": ["w1"], "tags": None}, "no_label"),
        ({"tokens": ["w1", None], "tags": ["O", "O"]}, "words_of_another_kind"),
        ({"tokens": ["w1"], "tags": [1.5]}, "labels_of_another_kind"),
        ({"tokens": ["w1"], "tags": ["B-LOC"]}, "unknown_label"),
    ],
)
def test_rows_that_cannot_be_used_are_left_out_for_their_reason(values, reason):
    assert task([NAMED]).examples(row(**values)) == Drop(reason)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(4, 20), st.sampled_from(["split", "truncate"]))
def test_a_long_row_is_cut_between_words_and_loses_no_label_where_it_is_split(words, seq_length, overflow):
    rng = Random(words * 31 + seq_length)
    said = [f"w{n % 30}" + "".join(f"p{k}" for k in range(n % 3)) for n in range(words)]
    labels = [rng.choice(["O", "B-X"]) for _ in said]
    made = task([NAMED, row(tokens=["w1"], tags=["B-X"])], seq_length, overflow=overflow)
    examples = made.examples(row(tokens=said, tags=labels))
    learned = [made.known[n] for example in examples for n in example.values["labels"] if n != -100]
    assert learned == labels[: len(learned)]
    assert overflow == "truncate" or len(learned) == words
    for example in examples:
        assert example.length == len(example.values["input_ids"]) <= seq_length
        assert not PIECES[example.values["input_ids"][1]].startswith("##")


def test_a_tokenizer_without_padding_and_a_length_without_room_are_refused():
    with pytest.raises(ModelError, match="no pad token"):
        task(tokenizer=make_tokenizer(pad=None))
    with pytest.raises(ConfigError, match=r"'seq_length' 2 has no room"):
        task(seq_length=2)


# ── entities ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_entities_go_on_where_their_kind_does():
    labels = ["B-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-PER", "S-ORG", "I-ORG", "E-ORG", "I-ORG"]
    assert entities(labels) == [
        ("PER", 0, 1), ("LOC", 3, 3), ("LOC", 4, 4), ("PER", 5, 5), ("ORG", 6, 6), ("ORG", 7, 8), ("ORG", 9, 9),
    ]  # fmt: skip
    assert are_entities(["O", "B-PER"])
    assert not are_entities(["O"])
    assert not are_entities(["O", "NOUN", "B-PER"])


NAMES = ["O", *(f"{tag}-{kind}" for tag in "BIES" for kind in ("PER", "LOC"))]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.lists(st.tuples(*[st.integers(0, len(NAMES) - 1)] * 2), min_size=1, max_size=12), max_size=6))
def test_the_figures_are_those_of_seqeval_to_the_bit(sequences):
    from seqeval import metrics as seqeval

    found = Found(NAMES)
    for sequence in sequences:
        found.update(*map(list, zip(*sequence, strict=True)))
    if not sequences:
        assert found.compute() == {}
        return
    true, predicted = ([[NAMES[pair[which]] for pair in each] for each in sequences] for which in (0, 1))
    expected = {
        "accuracy": seqeval.accuracy_score(true, predicted),
        "precision": seqeval.precision_score(true, predicted, zero_division=0),
        "recall": seqeval.recall_score(true, predicted, zero_division=0),
        "f1": seqeval.f1_score(true, predicted, zero_division=0),
    }
    assert found.compute() == pytest.approx(expected, abs=1e-15)


def test_labels_that_tell_of_no_entities_have_an_accuracy_alone():
    found = Found(["NOUN", "VERB"])
    found.update([0, 1, 1], [0, 0, 1])
    assert found.compute() == {"accuracy": 2 / 3}


# ── a run ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows, and a tiny encoder."""
    path = tmp_path_factory.mktemp("words")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(PIECES), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=PAD,
        num_labels=3,
    )  # fmt: skip
    BertForTokenClassification(config).save_pretrained(path / "model")
    TOKENIZER.save_pretrained(path / "model")
    rng = Random(3)
    rows = []
    for _ in range(80):
        words = [f"w{rng.randrange(30)}" + rng.choice(["", "p1", "p2p3"]) for _ in range(rng.randint(2, 14))]
        tags = ["B-X" if word.startswith("w1") else "I-X" if word.startswith("w2") else "O" for word in words]
        rows.append(json.dumps({"tokens": words, "tags": tags}))
    (path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    return path


class Head(Plugin):
    """Gives the new head the weights that the plain loop has."""

    @hookimpl(wrapper=True)
    def hfx_model(self):
        model = yield
        with torch.no_grad():
            model.classifier.weight.fill_(0.01)
            model.classifier.bias.zero_()
        return model


def test_the_losses_are_those_of_a_plain_loop_of_the_libraries(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HFX_CACHE", str(folder / "cache"))
    SEEN.clear()
    named = {"token_classification": {}, "fp32": {}, "adamw": {"lr": 3e-3}, "cosine": {"warmup": 0}}
    fields = {"seq_length": 32, "batch_size": 6, "steps": 5, "eval_share": 0.0, "data": "rows.jsonl"}
    framework.train({**fields, "model": "model", "output": "plain", "plugins": named}, plugins=[Batches(), Head()])
    ours = [json.loads(line)["loss"] for line in (folder / "plain" / "metrics.jsonl").read_text().splitlines()]
    model = AutoModelForTokenClassification.from_pretrained("model", dtype=torch.float32, num_labels=3).train()
    with torch.no_grad():
        model.classifier.weight.fill_(0.01)
        model.classifier.bias.zero_()
    plain = [(name, p) for name, p in model.named_parameters()]
    decayed = [p for name, p in plain if "LayerNorm" not in name and "bias" not in name]
    others = [p for name, p in plain if "LayerNorm" in name or "bias" in name]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}], lr=3e-3
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


def test_a_run_finds_entities_and_two_processes_find_the_same(folder):
    plugins = ("--plugin", "token_classification", "--plugin", "fp32", "--adamw.lr", "1e-2")
    words = ("train", "--model", "model", "--data", "rows.jsonl", *plugins, "--seq-length", "32", "--batch-size", "8",
             "--steps", "40", "--eval-share", "0.2", "--log-every", "20", "--cosine.warmup", "0")  # fmt: skip
    figures = {}
    for name, more in (("one", ()), ("two", ("--nproc", "2"))):
        done = hfx(*words, *more, "--output", name, cwd=folder, HFX_CACHE=str(folder / "cache"), OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
        assert "detected   token_classification: words in 'tokens', labels in 'tags' (" in done.stderr
        lines = list(map(json.loads, (folder / name / "metrics.jsonl").read_text().splitlines()))
        figures[name] = next(line for line in reversed(lines) if "eval_f1" in line)
    assert figures["one"]["eval_f1"] > 0.9
    assert figures["one"]["eval_accuracy"] > 0.9
    for key in ("eval_loss", "eval_f1", "eval_precision", "eval_recall", "eval_accuracy"):
        assert figures["two"][key] == pytest.approx(figures["one"][key], abs=1e-4)
    config = json.loads((folder / "one" / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "B-X", "1": "I-X", "2": "O"}


TRAINED = []


class Trained(Plugin):
    """Notes which parameters are trained."""

    @hookimpl
    def hfx_step_end(self, run):
        TRAINED.append({name for name, parameter in run.model.named_parameters() if parameter.requires_grad})


def test_beside_adapters_the_new_head_is_trained_as_a_whole(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HFX_CACHE", str(folder / "cache"))
    TRAINED.clear()
    named = {"token_classification": {}, "fp32": {}, "lora": {"rank": 4}}
    fields = {"seq_length": 32, "batch_size": 6, "steps": 1, "data": "rows.jsonl", "model": "model", "output": "lora"}
    framework.train({**fields, "plugins": named}, plugins=[Trained()])
    [trained] = TRAINED
    assert any(name.startswith("classifier.modules_to_save.") for name in trained)
    assert any(".lora_A." in name for name in trained)
    assert AutoModelForTokenClassification.from_pretrained("lora/model").config.num_labels == 3


def test_the_values_drawn_are_the_tables(folder):
    made = task([NAMED])
    (example,) = made.examples(NAMED)
    drawn = made.draw(example.values, np.random.default_rng(0))
    assert drawn == example.values
