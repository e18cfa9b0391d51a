from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForSequenceClassification, BertConfig, LlamaConfig, PreTrainedTokenizerFast

from hfx import Drop, Place, Row, RunConfig
from hfx.errors import ConfigError, DataError, ModelError, PluginError
from hfx_plugins.batching.padding_impl import PaddingBatcher
from hfx_plugins.tasks.classification import Classification

CLS, SEP, PAD = 20, 21, 22


def make_tokenizer(pad="[PAD]"):
    vocabulary = {f"w{number}": number for number in range(20)} | {"[CLS]": CLS, "[SEP]": SEP, "[PAD]": PAD}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", CLS), ("[SEP]", SEP)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad)


TOKENIZER = make_tokenizer()


class Prepared:
    """What the hook reads of a run."""

    def __init__(self, seq_length=6, tokenizer=TOKENIZER):
        self.config = RunConfig(seq_length=seq_length)
        self.tokenizer = tokenizer


def unfitted(seq_length=6, **options):
    return Classification(**options).hfx_task(Prepared(seq_length))


def fitted(labels=("no", "yes"), seq_length=6, **options):
    texts = [options["text"]] if options.get("text") else ["text"]
    facts = {"problem": "single_label", "labels": list(labels), "counts": [1] * len(labels), "rows": len(labels)}
    return unfitted(seq_length, **options).fitted(facts | {"texts": texts})


def row(number=1, **values):
    return Row(values, Place("data", "data.jsonl", number))


def ids(outcome):
    return [example.values["input_ids"] for example in outcome]


# ── labels ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("labels", "expected"),
    [(["b", "a", "b"], ["a", "b"]), ([10, 2, 2], [2, 10]), ([True, False], ["false", "true"]), ([1.0, 0.0], [0, 1]),
     (["b", None, "", "a"], ["a", "b"])],
)  # fmt: skip
def test_labels_are_collected_and_sorted_as_json_values(labels, expected):
    facts = unfitted().fit([row(text="w1", label=label) for label in labels])
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["problem"], facts["labels"], facts["texts"]) == ("single_label", expected, ["text"])
    assert facts["rows"] == sum(facts["counts"]) == sum(label not in (None, "") for label in labels)
    made = unfitted().fitted(facts)
    positions = [made.examples(row(text="w1", label=label)) for label in labels if label not in (None, "")]
    assert {example[0].values["label"] for example in positions} == {0, 1}


def test_the_model_is_told_the_labels_and_the_pad_token():
    made = fitted(["no", "yes"])
    assert made.model_options == {
        "num_labels": 2,
        "id2label": {0: "no", 1: "yes"},
        "label2id": {"no": 0, "yes": 1},
        "problem_type": "single_label_classification",
        "pad_token_id": PAD,
    }
    assert made.model_class == "AutoModelForSequenceClassification"


def test_a_label_that_training_never_saw_is_dropped():
    assert fitted().examples(row(text="w1", label="maybe")) == Drop("unknown_label")


@pytest.mark.parametrize("label", [None, ""])
def test_a_row_without_a_label_is_dropped(label):
    assert fitted().examples(row(text="w1", label=label)) == Drop("no_label")


def test_a_label_column_that_is_missing_names_the_row_and_the_nearest():
    with pytest.raises(DataError, match=r"data\.jsonl:4 has no column 'lable' .*did you mean 'label'.*'text', 'label'"):
        unfitted(label="lable").fit([row(4, text="w1", label="a")])


def test_too_many_labels_are_no_classes():
    rows = [row(number, text="w1", label=f"id-{number}") for number in range(1001)]
    with pytest.raises(DataError, match="more than 1000 different labels"):
        unfitted().fit(rows)
    assert len(unfitted().fit(rows[:1000])["labels"]) == 1000


@pytest.mark.parametrize(("labels", "what"), [(["a", "a"], "one label only: 'a'"), ([None], "no label")])
def test_fewer_than_two_labels_leave_nothing_to_tell_apart(labels, what):
    with pytest.raises(DataError, match=what):
        unfitted().fit([row(text="w1", label=label) for label in labels])


def test_numbers_among_names_are_refused_with_both_places():
    with pytest.raises(DataError, match=r"numbers and names: 1 in data\.jsonl:1, 'a' in data\.jsonl:2"):
        unfitted().fit([row(1, text="w1", label=1), row(2, text="w1", label="a")])


@pytest.mark.parametrize("label", [{"a": 1}, float("nan"), [[1]]])
def test_a_label_that_is_neither_number_nor_name_is_refused(label):
    with pytest.raises(DataError, match=r"data\.jsonl:1: the label in 'label' is"):
        unfitted().fit([row(text="w1", label=label)])


# ── texts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_text_is_encoded_as_its_tokenizer_does():
    (example,) = fitted().examples(row(text="w1 w2", label="yes"))
    assert example.values == {"input_ids": [CLS, 1, 2, SEP], "label": 1}
    assert (example.length, example.units, example.truncated) == (4, 1, False)


@pytest.mark.parametrize(("side", "kept"), [("right", [0, 1, 2, 3]), ("left", [5, 6, 7, 8])])
def test_truncating_keeps_the_special_tokens_at_both_ends(side, kept):
    text = " ".join(f"w{number}" for number in range(9))
    (example,) = fitted(side=side).examples(row(text=text, label="no"))
    assert example.values["input_ids"] == [CLS, *kept, SEP]
    assert example.truncated


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(3, 12), st.sampled_from(["left", "right"]))
def test_cutting_is_what_the_tokenizer_itself_would_do(count, seq_length, side):
    text = " ".join(f"w{number}" for number in range(count))
    own = make_tokenizer()
    own.truncation_side = side
    (example,) = fitted(seq_length=seq_length, side=side).examples(row(text=text, label="no"))
    assert example.values["input_ids"] == own(text, truncation=True, max_length=seq_length)["input_ids"]


def test_a_length_without_room_for_a_text_is_refused():
    with pytest.raises(ConfigError, match="'seq_length' 2 has no room for a text; give 3 or more"):
        unfitted(seq_length=2)


def test_a_row_that_is_too_long_can_be_left_out():
    made = fitted(overflow="drop")
    assert made.examples(row(text="w1 w2 w3 w4 w5", label="no")) == Drop("too_long")
    assert len(ids(made.examples(row(text="w1 w2 w3 w4", label="no")))[0]) == 6


@pytest.mark.parametrize("text", ["", " \n", None])
def test_an_empty_text_is_dropped(text):
    assert fitted().examples(row(text=text, label="no")) == Drop("empty")


def test_the_label_is_never_taken_for_the_text():
    for options, rows in (
        ({}, [row(body="w1", label="no"), row(body="w2", label="yes")]),
        ({"label": "text"}, [row(body="w1", text="no"), row(body="w2", text="yes")]),
    ):
        task = unfitted(**options)
        made = task.fitted(task.fit(rows))
        assert ids(made.examples(rows[0])) == [[CLS, 1, SEP]]


def test_a_text_column_that_is_missing_names_the_option():
    with pytest.raises(DataError, match=r"no column 'body' \(--classification\.text\)"):
        fitted(text="body").examples(row(text="w1", label="no"))


def test_the_fingerprint_follows_options_and_labels():
    tasks = [fitted(), fitted(["a", "b"]), fitted(side="left"), fitted(overflow="drop"), fitted(seq_length=7),
             fitted(text="x"), fitted(label="y")]  # fmt: skip
    assert len({json.dumps(made.fingerprint()) for made in tasks}) == len(tasks)


def test_the_task_travels_to_other_processes():
    made = fitted()
    one = row(text="w1 w2", label="no")
    assert pickle.loads(pickle.dumps(made)).examples(one) == made.examples(one)  # noqa: S301


def test_a_tokenizer_without_a_pad_token_is_refused():
    with pytest.raises(ModelError, match="no pad token"):
        Classification().hfx_task(Prepared(tokenizer=make_tokenizer(pad=None)))


# ── loss and figures ─────────────────────────────────────────────────────────────────────────────────────────────────


def batch_of(made, rows):
    examples = [made.examples(one)[0] for one in rows]
    drawn = [made.draw({k: np.asarray(v) for k, v in e.values.items()}, np.random.default_rng(0)) for e in examples]
    return PaddingBatcher(dict(made.collated())).collate([[values] for values in drawn])


SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 23}


@pytest.mark.parametrize("config", [BertConfig, LlamaConfig])
def test_the_loss_is_the_sum_over_rows_whatever_they_are_padded_with(config):
    torch.manual_seed(0)
    made = fitted(["a", "b", "c"])
    model = AutoModelForSequenceClassification.from_config(config(**SIZES, **made.model_options)).eval()
    rows = [row(text=text, label=label) for text, label in (("w1 w2 w3", "a"), ("w4", "c"), ("w5 w6", "b"))]
    batch = batch_of(made, rows)
    together = made.loss(model, batch)
    alone = sum(made.loss(model, batch_of(made, [one])) for one in rows)
    assert together.shape == ()
    assert torch.allclose(together, alone, rtol=1e-5)
    logs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.log_softmax(-1)
    assert torch.allclose(together, -(logs[0, 0] + logs[1, 2] + logs[2, 1]), rtol=1e-5)


class Logits(torch.nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, **inputs):
        return self


def test_the_loss_is_taken_in_full_precision():
    made = fitted()
    batch = batch_of(made, [row(text="w1", label="no")] * 2)
    loss = made.loss(Logits(torch.tensor([[3.0, 1.0], [0.5, 2.0]], dtype=torch.bfloat16)), batch)
    assert loss.dtype == torch.float32


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_figures_are_those_of_the_definitions_and_ranks_add_up(pairs):
    made = fitted(["a", "b", "c"])
    metrics, halves = made.metrics(), [made.metrics(), made.metrics()]
    true, predicted = (torch.tensor(side) for side in zip(*pairs, strict=True))
    logits = torch.nn.functional.one_hot(predicted, 3).float()
    metrics.update(true, logits)
    for half, part in zip(halves, (slice(0, len(pairs) // 2), slice(len(pairs) // 2, None)), strict=True):
        half.update(true[part], logits[part])
    assert torch.equal(metrics.state, halves[0].state + halves[1].state)
    found = metrics.compute()
    assert found["accuracy"] == pytest.approx(sum(t == p for t, p in pairs) / len(pairs))
    scores = []
    for label in {label for pair in pairs for label in pair}:
        right = sum(t == p == label for t, p in pairs)
        claimed, actual = sum(p == label for _, p in pairs), sum(t == label for t, _ in pairs)
        precision, recall = right / max(1, claimed), right / max(1, actual)
        scores.append(2 * precision * recall / (precision + recall) if right else 0.0)
    assert found["macro_f1"] == pytest.approx(sum(scores) / len(scores))


def test_the_loss_fills_the_figures():
    made = fitted()
    metrics = made.metrics()
    batch = batch_of(made, [row(text="w1", label="no"), row(text="w1", label="yes")])
    made.loss(Logits(torch.tensor([[1.0, 0.0], [1.0, 0.0]])), batch, metrics)
    assert metrics.compute() == {"accuracy": 0.5, "macro_f1": pytest.approx(1 / 3)}


def test_an_evaluation_without_rows_has_no_figures():
    assert fitted().metrics().compute() == {}


def test_figures_before_the_labels_are_known_are_refused():
    with pytest.raises(PluginError, match="before it knows its labels"):
        unfitted().metrics()


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["no", "yes", "perhaps", None]), st.sampled_from(["", "  ", "w1", "w1 w2 " * 4, None])
        ),
        max_size=30,
    ),
    st.sampled_from(["truncate", "drop"]),
    st.sampled_from(["left", "right"]),
)
def test_rows_that_are_encoded_together_have_the_example_of_each_alone(pairs, overflow, side):
    made = fitted(overflow=overflow, side=side)
    rows = [row(text=text, label=label) for label, text in pairs]
    assert made.examples_of(rows) == [made.examples(one) for one in rows]
