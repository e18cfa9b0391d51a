from __future__ import annotations

import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    PythonBackend,
)

from hfx import Drop, Place, Row, RunConfig
from hfx.errors import ConfigError, DataError, ModelError
from hfx.token_loss import causal_sum
from hfx_plugins.tasks.causal_lm import CausalLM
from hfx_plugins.tasks.text_impl import encode, encode_all

WORDS = [f"w{number}" for number in range(40)]
EOS, PAD, BOS = 40, 41, 42


def make_tokenizer(eos="</s>", template=None):
    vocabulary = {word: number for number, word in enumerate([*WORDS, "</s>", "<pad>", "<s>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template:
        tokenizer.post_processor = processors.TemplateProcessing(template, None, [("<s>", BOS), ("</s>", EOS)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, pad_token="<pad>")


TOKENIZER = make_tokenizer()


class Prepared:
    """What the hook reads of a run."""

    def __init__(self, seq_length=8, tokenizer=TOKENIZER):
        self.config = RunConfig(seq_length=seq_length)
        self.tokenizer = tokenizer


def task(seq_length=8, tokenizer=TOKENIZER, **options):
    return CausalLM(**options).hfx_task(Prepared(seq_length, tokenizer))


def words(count, first=0):
    return " ".join(WORDS[(first + index) % 40] for index in range(count))


def row(**values):
    return Row(values, Place("data", "data.jsonl", 7))


def ids(outcome):
    return [example.values["input_ids"] for example in outcome]


def drawn(example, made):
    return made.draw({name: np.asarray(value) for name, value in example.values.items()}, np.random.default_rng(0))


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(3, 12), st.booleans())
def test_rolling_parts_predict_every_token_of_a_text_once_in_order(count, seq_length, append_eos):
    made = task(seq_length, make_tokenizer(), overflow="rolling", append_eos=append_eos)
    examples = made.examples(row(text=words(count)))
    whole = [EOS, *(index % 40 for index in range(count)), *([EOS] if append_eos else [])]
    predicted = []
    for example in examples:
        held, labels = example.values["input_ids"], drawn(example, made)["labels"]
        assert len(held) <= seq_length
        assert example.units == int((labels >= 0).sum())
        at = next(at for at, label in enumerate(labels) if label >= 0)
        assert held[at - 1] == whole[len(predicted)]  # each is predicted behind the token before it
        predicted += [int(label) for label in labels if label >= 0]
    assert predicted == whole[1:]
    assert all(len(example.values["input_ids"]) == min(seq_length, len(whole)) for example in examples)


def test_rolling_parts_begin_with_the_token_that_the_tokenizer_begins_with():
    own = make_tokenizer(template="<s> $A")
    assert ids(task(8, own, overflow="rolling").examples(row(text=words(2)))) == [[BOS, 0, 1, EOS]]
    named = make_tokenizer()
    named.bos_token = "<s>"
    assert ids(task(8, named, overflow="rolling").examples(row(text=words(2)))) == [[BOS, 0, 1, EOS]]
    with pytest.raises(ModelError, match="no first and no end token"):
        task(8, make_tokenizer(eos=None), overflow="rolling", append_eos=False)


def test_rolling_parts_of_rows_with_a_prompt_are_refused():
    made = CausalLM(overflow="rolling", prompt="asked")
    assert ["predicts every token" in problem.message for problem in made.hfx_check(Prepared())] == [True]
    assert list(CausalLM(overflow="rolling").hfx_check(Prepared())) == []


# ── cutting ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_text_becomes_its_tokens_and_the_end_token():
    (example,) = task().examples(row(text=words(3)))
    assert example.values == {"input_ids": [0, 1, 2, EOS], "unlabelled": 0}
    assert (example.length, example.units, example.truncated) == (4, 3, False)
    assert ids(task(append_eos=False).examples(row(text=words(3)))) == [[0, 1, 2]]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 60), st.integers(0, 20), st.integers(2, 20))
def test_splitting_covers_every_token_once_but_for_those_that_cannot_be_learned(count, asked, seq_length):
    made = task(seq_length, prompt="question")
    outcome = made.examples(row(text=words(count, asked), question=words(asked)))
    whole = [index % 40 for index in range(asked + count)] + [EOS]
    chunks = [whole[at : at + seq_length] for at in range(0, len(whole), seq_length)]
    labelled = [max(0, len(c) - max(1, asked - index * seq_length)) for index, c in enumerate(chunks)]
    expected = [chunk for chunk, units in zip(chunks, labelled, strict=True) if units]
    if not expected:
        assert outcome == Drop("no_label_left")
        return
    assert ids(outcome) == expected
    assert [example.units for example in outcome] == [units for units in labelled if units]
    assert not any(example.truncated for example in outcome)


@settings(deadline=None)
@given(
    st.integers(1, 30), st.integers(0, 12), st.sampled_from(["split", "truncate"]), st.sampled_from(["left", "right"])
)
def test_units_are_the_labels_that_are_left_after_the_shift(count, asked, overflow, side):
    made = task(8, prompt="question", overflow=overflow, side=side)
    outcome = made.examples(row(text=words(count), question=words(asked)))
    for example in outcome if isinstance(outcome, list) else []:
        labels = drawn(example, made)["labels"]
        assert labels[0] == -100
        assert (labels[1:] != -100).sum() == example.units > 0
        kept = labels != -100
        assert (labels[kept] == np.array(example.values["input_ids"])[kept]).all()


def test_truncating_keeps_the_side_that_is_not_cut_off():
    right = task(4, overflow="truncate").examples(row(text=words(9)))
    left = task(4, overflow="truncate", side="left").examples(row(text=words(9)))
    assert ids(right) == [[0, 1, 2, 3]]
    assert ids(left) == [[6, 7, 8, EOS]]
    assert right[0].truncated
    assert left[0].truncated


def test_what_fits_is_not_truncated():
    (example,) = task(4, overflow="truncate").examples(row(text=words(3)))
    assert not example.truncated


def test_a_row_that_is_too_long_can_be_left_out():
    assert task(4, overflow="drop").examples(row(text=words(4))) == Drop("too_long")
    assert ids(task(4, overflow="drop").examples(row(text=words(3)))) == [[0, 1, 2, EOS]]


def test_a_prompt_carries_no_loss():
    made = task(prompt="question")
    (example,) = made.examples(row(question=words(3), text=words(2, 10)))
    assert drawn(example, made)["labels"].tolist() == [-100, -100, -100, 10, 11, EOS]
    assert example.units == 3


def test_an_answer_that_is_cut_away_leaves_nothing_to_learn():
    made = task(4, prompt="question", overflow="truncate")
    assert made.examples(row(question=words(5), text=words(2))) == Drop("no_label_left")
    (kept,) = task(4, prompt="question", overflow="truncate", side="left").examples(
        row(question=words(5), text=words(2, 10))
    )
    assert kept.values == {"input_ids": [4, 10, 11, EOS], "unlabelled": 1}


@pytest.mark.parametrize("text", ["", None, "  "])
def test_an_empty_text_is_dropped(text):
    assert task().examples(row(text=text)) == Drop("empty")


def test_parts_that_are_too_short_are_left_out():
    made = task(8, min_length=4)
    assert made.examples(row(text=words(2))) == Drop("too_short")
    assert [len(part) for part in ids(made.examples(row(text=words(9))))] == [8]
    assert [len(part) for part in ids(made.examples(row(text=words(11))))] == [8, 4]


def test_a_beginning_token_comes_before_the_prompt_and_stays_when_the_left_is_cut():
    tokenizer = make_tokenizer(template="<s> $A </s>")
    made = task(8, tokenizer, prompt="question")
    (example,) = made.examples(row(question=words(2), text=words(2, 10)))
    assert example.values == {"input_ids": [BOS, 0, 1, 10, 11, EOS], "unlabelled": 3}
    made = task(4, tokenizer, overflow="truncate", side="left")
    assert ids(made.examples(row(text=words(9)))) == [[BOS, 7, 8, EOS]]


def test_the_task_travels_to_other_processes():
    made = task()
    assert pickle.loads(pickle.dumps(made)).examples(row(text="w1 w2")) == made.examples(row(text="w1 w2"))  # noqa: S301


def test_the_fingerprint_follows_every_option():
    options = [{}, {"text": "a"}, {"prompt": "b"}, {"append_eos": False}, {"overflow": "drop"}, {"side": "left"},
               {"min_length": 2}]  # fmt: skip
    prints = [str(task(**option).fingerprint()) for option in options] + [str(task(9).fingerprint())]
    assert len(set(prints)) == len(prints)


# ── many rows at once ────────────────────────────────────────────────────────────────────────────────────────────────

TEXTS = st.lists(st.sampled_from([*"aeorst  .,\n\té日😀", "</s>", " w1 "]), max_size=60).map("".join)


def byte_pairs():
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = ["to be or not to be", "at rest, a store of tears"]
    letters = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=300, initial_alphabet=letters))
    return PreTrainedTokenizerFast(tokenizer_object=trained, eos_token="</s>", pad_token="<pad>")


class Letters(PythonBackend):
    """A tokenizer that is none of `tokenizers`."""

    def get_vocab(self):
        return {letter: at for at, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}

    @property
    def vocab_size(self):
        return 26

    def _tokenize(self, text):
        return [letter for letter in text if letter in self.get_vocab()]

    def _convert_token_to_id(self, token):
        return self.get_vocab().get(token)


class Shouting(PreTrainedTokenizerFast):
    """A tokenizer that does something to a text before its backend."""

    def _encode_plus(self, text, *args, **kwargs):
        return super()._encode_plus(text.replace("w1", "w2"), *args, **kwargs)


BYTE_PAIRS = byte_pairs()


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=40), st.booleans())
def test_texts_that_are_encoded_together_have_the_ids_of_each_alone(texts, used):
    if used:  # a call that leaves truncation and padding behind
        BYTE_PAIRS(["to be", "a"], truncation=True, max_length=2, padding="max_length")
    assert encode_all(BYTE_PAIRS, texts) == [encode(BYTE_PAIRS, text) for text in texts]


@pytest.mark.parametrize("tokenizer", [Letters(), Shouting(tokenizer_object=TOKENIZER.backend_tokenizer)])
def test_a_tokenizer_with_ways_of_its_own_is_asked_text_by_text(tokenizer):
    texts = ["w1 w3", "", "abc w1"]
    assert encode_all(tokenizer, texts) == [encode(tokenizer, text) for text in texts]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.one_of(st.none(), TEXTS), TEXTS), max_size=30),
    st.sampled_from(["split", "truncate", "drop"]),
    st.sampled_from(["left", "right"]),
    st.sampled_from([None, "question"]),
    st.integers(1, 4),
)
def test_rows_that_are_cut_together_have_the_parts_of_each_alone(pairs, overflow, side, prompt, least):
    made = task(8, BYTE_PAIRS, text="text", prompt=prompt, overflow=overflow, side=side, min_length=least)
    rows = [row(text=text, question=question) for text, question in pairs]
    assert made.examples_of(rows) == [made.examples(one) for one in rows]


def test_a_process_that_cuts_does_without_torch(tmp_path):
    (tmp_path / "task").write_bytes(pickle.dumps(task()))
    code = "import pickle, sys; made = pickle.load(open('task', 'rb')); import hfx; " \
        "made.examples(hfx.Row({'text': 'w1'}, hfx.Place('a', 'b', 1))); sys.exit('torch' in sys.modules)"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0


# ── columns ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "values", [{"text": "w1", "title": "w2"}, {"title": "w2", "content": "w1"}, {"a": "w1", "n": 3}]
)
def test_the_texts_column_is_found(values):
    assert ids(task().examples(row(**values))) == [[1, EOS]]


def test_the_prompts_column_is_not_taken_for_the_text():
    (example,) = task(prompt="text").examples(row(text="w1", answer="w2"))
    assert example.values["input_ids"] == [1, 2, EOS]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"a": "x", "b": "y"}, r"data\.jsonl:7: several columns hold a string.*--causal_lm\.text.*'a', 'b'"),
        ({"n": 1}, r"data\.jsonl:7: no column holds a string.*there are 'n'"),
        ({"text": 3}, r"data\.jsonl:7: the column 'text' holds int, not text"),
    ],
)
def test_a_text_that_cannot_be_found_names_the_row_and_its_columns(values, message):
    with pytest.raises(DataError, match=message):
        task().examples(row(**values))


def test_a_column_that_is_missing_is_answered_with_the_nearest():
    with pytest.raises(DataError, match=r"data\.jsonl:7 has no column 'bodi' .*did you mean 'body'.*it has 'body'"):
        task(text="bodi").examples(row(body="w1"))


def test_a_tokenizer_without_an_end_token_is_refused():
    with pytest.raises(ModelError, match=r"no end token.*--causal_lm\.append_eos false"):
        task(tokenizer=make_tokenizer(eos=None))
    assert ids(task(tokenizer=make_tokenizer(eos=None), append_eos=False).examples(row(text="w1 w2"))) == [[1, 2]]


def test_a_length_that_leaves_nothing_to_predict_is_refused():
    with pytest.raises(ConfigError, match=r"'seq_length' 2 leaves nothing to predict; give 3 or more"):
        task(2, make_tokenizer(template="<s> $A"))


# ── loss ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

ARCHITECTURES = {
    "llama": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": EOS, "eos_token_id": EOS},
    "qwen3": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
              "head_dim": 8, "intermediate_size": 16},
}  # fmt: skip


def build(architecture):
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, vocab_size=43, pad_token_id=PAD, **ARCHITECTURES[architecture])
    model = AutoModelForCausalLM.from_config(config).eval()
    model.loss_function = causal_sum
    return model


def tensors(examples, made):
    values = [drawn(example, made) for example in examples]
    width = max(len(value["labels"]) for value in values)
    batch = {name: torch.full((len(values), width), made.collated()[name].pad) for name in ("input_ids", "labels")}
    batch["attention_mask"] = torch.zeros(len(values), width, dtype=torch.int64)
    for index, value in enumerate(values):
        size = len(value["labels"])
        batch["attention_mask"][index, :size] = 1
        for name in ("input_ids", "labels"):
            batch[name][index, :size] = torch.from_numpy(np.asarray(value[name], dtype=np.int64))
    return batch


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loss_is_the_sum_over_labels_and_rows_add_up(architecture):
    made = task(prompt="question")
    rows = [row(question=words(2), text=words(5, 10)), row(question=words(1), text=words(1, 20))]
    examples = [made.examples(one)[0] for one in rows]
    model = build(architecture)
    together = made.loss(model, tensors(examples, made))
    alone = [made.loss(model, tensors([example], made)) for example in examples]
    assert together.shape == ()
    assert torch.allclose(together, sum(alone), rtol=1e-5)
    batch = tensors(examples[:1], made)
    logs = model(batch["input_ids"]).logits.float().log_softmax(-1)[0]
    expected = -sum(logs[at - 1, label] for at, label in enumerate(batch["labels"][0]) if label != -100)
    assert torch.allclose(alone[0], expected, rtol=1e-5)


def test_unigram_entropy_is_that_of_the_labels_and_ranks_add_up():
    made = task()
    examples = [made.examples(row(text=text))[0] for text in ("w0 w1 w1", "w2 w1")]
    model = build("gpt2")
    metrics, first, second = made.metrics(), made.metrics(), made.metrics()
    made.loss(model, tensors(examples, made), metrics)
    made.loss(model, tensors(examples[:1], made), first)
    made.loss(model, tensors(examples[1:], made), second)
    counts = [3, 2]  # labels behind the first position: w1 w1 </s>, w1 </s>
    expected = -sum(count / 5 * math.log(count / 5) for count in counts)
    assert metrics.compute() == {"unigram_entropy": pytest.approx(expected)}
    assert torch.equal(metrics.state, first.state + second.state)
    assert metrics.state.dtype == torch.float64


def test_an_evaluation_without_labels_has_no_entropy():
    assert task().metrics().compute() == {}
