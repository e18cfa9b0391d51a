"""Several texts a row, several labels a row, numbers, weights: against transformers and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedTokenizerFast

from hfx import Drop, Place, Row, RunConfig
from hfx.errors import ConfigError, DataError
from hfx_plugins.batching.padding_impl import PaddingBatcher
from hfx_plugins.tasks.classification import Classification
from hfx_plugins.tasks.label_figures_impl import Confusion, Deviations, Sets

CLS, SEP, PAD = 20, 21, 22
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 23,
         "initializer_range": 0.5}  # fmt: skip


def make_tokenizer(pair="[CLS] $A [SEP] $B:1 [SEP]:1", **more):
    vocabulary = {f"w{number}": number for number in range(20)} | {"[CLS]": CLS, "[SEP]": SEP, "[PAD]": PAD}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if pair:
        specials = [("[CLS]", CLS), ("[SEP]", SEP)]
        tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", pair, specials)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", model_input_names=names, **more)


class Prepared:
    """What the hook reads of a run."""

    def __init__(self, seq_length=16, tokenizer=None):
        self.config = RunConfig(seq_length=seq_length)
        self.tokenizer = tokenizer or make_tokenizer()


def row(number=1, **values):
    return Row(values, Place("data", "data.jsonl", number))


def made(rows, seq_length=16, tokenizer=None, **options):
    task = Classification(**options).hfx_task(Prepared(seq_length, tokenizer))
    return task.fitted(task.fit(rows))


def batch_of(task, rows):
    examples = [task.examples(one)[0] for one in rows]
    drawn = [task.draw({k: np.asarray(v) for k, v in e.values.items()}, np.random.default_rng(0)) for e in examples]
    return PaddingBatcher(dict(task.collated())).collate([[values] for values in drawn])


def model_of(task):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(BertConfig(**SIZES, **task.model_options)).eval()


# ── several texts ────────────────────────────────────────────────────────────────────────────────────────────────────

PAIRS = [row(premise="w1 w2", hypothesis="w3", label="yes"), row(premise="w4", hypothesis="w5 w6 w7", label="no")]


def test_a_usual_pair_of_columns_is_found_and_encoded_as_the_tokenizer_does():
    task = made(PAIRS)
    assert task.texts == ["premise", "hypothesis"]
    for one in PAIRS:
        (example,) = task.examples(one)
        own = task.tokenizer(one.values["premise"], one.values["hypothesis"])
        assert example.values["input_ids"] == own["input_ids"]
        assert example.values["token_type_ids"] == own["token_type_ids"]
        assert one.marks == {"classification": "single label in 'label', text in 'premise', 'hypothesis'"}
    assert task.columns.keys() == {"input_ids", "token_type_ids", "label"}


def test_a_text_with_a_partner_is_a_pair_and_beside_other_pairs_the_text():
    assert made([row(text="w1", text_pair="w2", label=0), row(text="w1", text_pair="w2", label=1)]).texts == [
        "text",
        "text_pair",
    ]
    rows = [row(text="w1", premise="w2", hypothesis="w3", label=label) for label in (0, 1)]
    assert made(rows).texts == ["text"]
    assert made(rows, text=["hypothesis", "text"]).texts == ["hypothesis", "text"]


def test_a_label_column_is_never_a_part_of_a_pair():
    rows = [row(sentence1="w1", sentence2=label, label="x") for label in ("a", "b")]
    assert made(rows, label="sentence2", text="sentence1").texts == ["sentence1"]
    with pytest.raises(DataError, match="several columns hold a string"):
        made(rows, label="sentence2")


def test_more_than_two_texts_go_on_as_the_second():
    rows = [row(a="w1", b="w2", c="w3", label=label) for label in ("x", "y")]
    (example,) = made(rows, text=["a", "b", "c"]).examples(rows[0])
    assert example.values["input_ids"] == [CLS, 1, SEP, 2, SEP, 3, SEP]
    assert example.values["token_type_ids"] == [0, 0, 0, 1, 0, 1, 1]


def test_a_tokenizer_that_puts_nothing_between_texts_has_a_line_end_there():
    tokenizer = make_tokenizer(pair=None)
    tokenizer.add_tokens("\n")
    (example,) = made(PAIRS, tokenizer=tokenizer).examples(PAIRS[0])
    assert example.values["input_ids"] == [1, 2, tokenizer.convert_tokens_to_ids("\n"), 3]
    assert "token_type_ids" not in example.values


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 15), st.integers(1, 15), st.integers(6, 20), st.sampled_from(["left", "right"]))
def test_two_texts_are_cut_as_the_tokenizer_cuts_them(first, second, seq_length, side):
    texts = [" ".join(f"w{number}" for number in range(count)) for count in (first, second)]
    rows = [row(text=texts[0], text_pair=texts[1], label=label) for label in (0, 1)]
    (example,) = made(rows, seq_length, side=side).examples(rows[0])
    own = make_tokenizer(truncation_side=side)(*texts, truncation="longest_first", max_length=seq_length)
    assert example.values["input_ids"] == own["input_ids"]
    assert example.values["token_type_ids"] == own["token_type_ids"]


def test_a_length_without_room_for_all_texts_is_refused():
    with pytest.raises(ConfigError, match="'seq_length' 4 has no room for the texts; give 5 or more"):
        made(PAIRS, seq_length=4)


def test_the_model_is_told_which_text_a_token_is_of():
    task = made(PAIRS)
    model, batch = model_of(task), batch_of(task, PAIRS)
    untyped = {name: tensor for name, tensor in batch.items() if name != "token_type_ids"}
    assert not torch.allclose(task.loss(model, batch), task.loss(model, untyped))
    own = task.tokenizer(
        [one.values["premise"] for one in PAIRS], [one.values["hypothesis"] for one in PAIRS],
        padding=True, return_tensors="pt",
    )  # fmt: skip
    theirs = model(**own, labels=batch["labels"]).loss
    assert torch.allclose(task.loss(model, batch) / 2, theirs, rtol=1e-6)


def test_a_model_that_knows_no_types_is_not_told_them():
    from transformers import DistilBertConfig

    task = made(PAIRS)
    sizes = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "vocab_size": 23}
    config = DistilBertConfig(**sizes, **task.model_options)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    assert torch.isfinite(task.loss(model, batch_of(task, PAIRS)))


# ── several labels ───────────────────────────────────────────────────────────────────────────────────────────────────

TAGGED = [row(text="w1", label=["b", "a"]), row(text="w2 w3", label=[]), row(text="w4", label=["c"]),
          row(text="w5", label=["a"])]  # fmt: skip


def test_lists_of_labels_are_several_labels_a_row_with_the_loss_of_transformers():
    task = made(TAGGED)
    assert task.model_options["problem_type"] == "multi_label_classification"
    assert [task.examples(one)[0].values["label"] for one in TAGGED] == [[0, 1], [], [2], [0]]
    model, batch = model_of(task), batch_of(task, TAGGED)
    hot = torch.tensor([[1.0, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]])
    theirs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=hot).loss
    assert torch.allclose(task.loss(model, batch) / 4, theirs, rtol=1e-6)


def test_a_label_that_training_never_saw_drops_the_row():
    assert made(TAGGED).examples(row(text="w1", label=["a", "d"])) == Drop("unknown_label")
    assert made(TAGGED).examples(row(text="w1", label=None)) == Drop("no_label")


def test_a_list_of_zeros_and_ones_is_refused_with_what_is_meant():
    with pytest.raises(DataError, match=r"data\.jsonl:1: .* holds a label twice; .* as \[2, 5\]"):
        made([row(text="w1", label=[0, 1, 0])])


def test_lists_among_single_labels_are_refused_with_both_places():
    with pytest.raises(DataError, match=r"a list in data\.jsonl:2, none in data\.jsonl:1"):
        made([row(1, text="w1", label="a"), row(2, text="w1", label=["b"])])


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.booleans()] * 6), min_size=1, max_size=20))
def test_figures_of_several_labels_are_those_of_scikit_learn(rows):
    from sklearn.metrics import accuracy_score, f1_score

    true, said = (np.array(rows)[:, at].astype(int) for at in (slice(0, 3), slice(3, 6)))
    metrics = Sets(["a", "b", "c"])
    for part in (slice(0, 7), slice(7, None)):
        metrics.update(torch.from_numpy(true[part]), torch.from_numpy(said[part]).float() - 0.5)
    expected = {
        "micro_f1": f1_score(true, said, average="micro", zero_division=0),
        "macro_f1": f1_score(true, said, average="macro", zero_division=0),
        "exact_match": accuracy_score(true, said),
    }
    assert metrics.compute() == pytest.approx(expected, abs=1e-12)


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

SCORED = [row(text="w1", label=0.5), row(text="w2 w3", label=4), row(text="w4", label=-1.25)]


def test_fractions_are_numbers_with_the_loss_of_transformers():
    task = made(SCORED)
    assert task.model_options | {"pad_token_id": None} == {
        "num_labels": 1, "id2label": {0: "label"}, "label2id": {"label": 0}, "problem_type": "regression",
        "pad_token_id": None,
    }  # fmt: skip
    model, batch = model_of(task), batch_of(task, SCORED)
    theirs = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=torch.tensor([0.5, 4, -1.25])
    ).loss
    assert torch.allclose(task.loss(model, batch) / 3, theirs, rtol=1e-6)


def test_whole_numbers_are_labels_unless_said_otherwise():
    rows = [row(text="w1", label=score) for score in (1, 2, 2, 5)]
    assert made(rows).model_options["num_labels"] == 3
    assert made(rows, problem="regression").model_options["num_labels"] == 1
    many = [row(number, text="w1", label=number) for number in range(2000)]
    assert made(many, problem="regression").model_options["num_labels"] == 1
    with pytest.raises(DataError, match=r"more than 1000 different labels.*--classification\.problem regression"):
        made(many)


def test_a_name_among_numbers_is_refused_with_its_place():
    with pytest.raises(DataError, match=r"holds numbers, and the name 'high' in data\.jsonl:4"):
        made([*SCORED, row(4, text="w1", label="high")])


@pytest.mark.parametrize(
    ("problem", "rows", "what"),
    [("multi_label", SCORED, "fractions"), ("regression", TAGGED, "lists of labels"),
     ("single_label", SCORED, "fractions"), ("multi_label", PAIRS, "single labels")],
)  # fmt: skip
def test_rows_of_another_problem_are_refused(problem, rows, what):
    with pytest.raises(DataError, match=f"holds {what}, as in data.jsonl:1; drop '--classification.problem {problem}'"):
        made(rows, problem=problem)


NUMBERS = st.floats(-1e3, 1e3, width=32)


@settings(deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=3, max_size=30))
def test_figures_of_numbers_are_those_of_scikit_learn(pairs):
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

    y, p = np.array(pairs, dtype=np.float64).T
    metrics = Deviations()
    for part in (slice(0, 2), slice(2, None)):
        metrics.update(torch.from_numpy(y[part]), torch.from_numpy(p[part]))
    found = metrics.compute()
    assert found["mse"] == pytest.approx(mean_squared_error(y, p))
    assert found["mae"] == pytest.approx(mean_absolute_error(y, p))
    if y.std() > 1e-3 * (1 + abs(y).max()):
        assert found["r2"] == pytest.approx(r2_score(y, p), rel=1e-6)
        if p.std() > 1e-3 * (1 + abs(p).max()):
            assert found["pearson"] == pytest.approx(np.corrcoef(y, p)[0, 1], abs=1e-6)


def test_what_is_not_defined_for_numbers_that_are_all_alike_is_there_and_no_number():
    metrics = Deviations()
    metrics.update(torch.full((5,), 0.1), torch.tensor([0.0, 1, 2, 3, 4]))
    assert [name for name, value in metrics.compute().items() if np.isnan(value)] == ["r2", "pearson"]
    metrics = Deviations()
    metrics.update(torch.tensor([0.0, 1, 2]), torch.full((3,), 0.1))
    assert [name for name, value in metrics.compute().items() if np.isnan(value)] == ["pearson"]


# ── weights and names ────────────────────────────────────────────────────────────────────────────────────────────────

RARE = [row(text=f"w{number}", label="rare" if number == 0 else "usual") for number in range(5)]


def test_balanced_weights_let_all_labels_count_alike_and_are_one_on_average():
    task = made(RARE, class_weights="balanced")
    assert task.problem.weights == (2.5, 0.625)
    model, batch = model_of(task), batch_of(task, RARE)
    logs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.log_softmax(-1)
    expected = -(2.5 * logs[0, 0] + 0.625 * logs[1:, 1].sum())
    assert torch.allclose(task.loss(model, batch), expected, rtol=1e-6)


def test_weights_are_given_by_name():
    assert made(RARE, class_weights={"rare": 3}).problem.weights == (3.0, 1.0)
    with pytest.raises(ConfigError, match="names the label 'rar', which no row has; there are 'rare', 'usual'"):
        made(RARE, class_weights={"rar": 3})


def test_of_several_labels_a_row_the_weight_makes_up_for_the_rows_without():
    task = made(TAGGED, class_weights="balanced")
    assert task.problem.weights == (1.0, 3.0, 3.0)
    model, batch = model_of(task), batch_of(task, TAGGED)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    hot = torch.tensor([[1.0, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]])
    weights = torch.tensor([1.0, 3, 3])
    each = -(weights * hot * logits.sigmoid().log() + (1 - hot) * (1 - logits.sigmoid()).log())
    assert torch.allclose(task.loss(model, batch), each.mean(-1).sum(), rtol=1e-5)


def test_labels_that_are_numbers_get_names_and_those_that_do_not_occur_stay():
    rows = [row(text="w1", label=label) for label in (0, 2)]
    task = made(rows, names=["no", "maybe", "yes"], class_weights="balanced")
    assert task.model_options["id2label"] == {0: "no", 1: "maybe", 2: "yes"}
    assert task.problem.weights == (1.0, 1.0, 1.0)
    assert task.examples(rows[1])[0].values["label"] == 2
    assert isinstance(task.metrics(), Confusion)
    with pytest.raises(ConfigError, match="the label 2 has no name among the 2"):
        made(rows, names=["no", "yes"])


def test_names_put_labels_that_are_names_in_order():
    rows = [row(text="w1", label=label) for label in ("high", "low")]
    assert made(rows, names=["low", "mid", "high"]).model_options["label2id"] == {"low": 0, "mid": 1, "high": 2}
    with pytest.raises(ConfigError, match=r"the label 'high' is none of 'classification\.names'"):
        made(rows, names=["low", "mid"])


def test_smoothing_is_that_of_torch():
    task = made(RARE, label_smoothing=0.1)
    model, batch = model_of(task), batch_of(task, RARE)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="sum", label_smoothing=0.1)
    assert torch.allclose(task.loss(model, batch), expected)


@pytest.mark.parametrize(
    ("rows", "options", "what"),
    [(SCORED, {"class_weights": "balanced"}, "class_weights"), (TAGGED, {"label_smoothing": 0.1}, "label_smoothing"),
     (SCORED, {"names": ["a", "b"]}, "names")],
)  # fmt: skip
def test_options_that_do_not_go_with_what_the_rows_hold_are_refused(rows, options, what):
    with pytest.raises(ConfigError, match=f"'classification.{what}' does not go with"):
        made(rows, **options)
