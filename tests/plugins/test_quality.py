"""The step as a user meets it: which texts it judges, what it drops and changes, and how it says so."""

from __future__ import annotations

import json
import pickle
import time

import pytest
from pydantic import ValidationError

from hfx import DataError, Drop, Place, Row
from hfx.testing import Check, plugin_checks
from hfx_plugins.cleaning.document_impl import sentence_ends, split_words
from hfx_plugins.cleaning.quality import Quality

GOOD = """The lighthouse stood at the end of a narrow road, and nobody had climbed its stairs for years.
On clear mornings fishermen could see the white tower from far beyond the bay.
They used to say that its lamp would have burned forever, with oil from a hidden well.
My grandmother knew better, because she had been the last keeper's daughter.
Every evening she carried bread up to him, counted ships until dusk, then walked home alone."""


HERE = Place("here", "rows.jsonl", 3)


def row(text, **values):
    return Row({"text": text, **values}, HERE)


def outcome(text, **options):
    return Quality(**options).apply([row(text)])[0]


# ── Words and sentences ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Well-known, isn't it?", ["Well", "-", "known", ",", "isn", "'t", "it", "?"]),
        ("It's 3.14 or 1,000...", ["It", "'s", "3.14", "or", "1,000", "..."]),
        ("so -- what…", ["so", "--", "what", "…"]),
        ("中文。 naïve\u00a0café", ["中文", "。", "naïve", "café"]),
        (
            "see --flag, example.com/a and f(x)|y.",
            ["see", "--flag", ",", "example.com", "/", "a", "and", "f(x)|y", "."],
        ),
        ("end.Next o'clock", ["end", ".", "Next", "o'clock"]),
        ("Mr. J. Day, e.g. U.S. Inc.", ["Mr.", "J.", "Day", ",", "e.g.", "U.S.", "Inc."]),
        ("(see https://a.org/b?c=1).", ["(", "see", "https://a.org/b?c=1", ")", "."]),
        (" \n\t", []),
    ],
)
def test_words_are_split_from_their_marks(text, words):
    assert split_words(text) == words


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two? Three!", 3),
        ("“One.” Two.", 2),
        ("Mr. and Mrs. J. Smith paid 3.50 at example.com.", 1),
        ("Wait... what?! No", 2),
        ("Some, e.g. U.S. Steel Inc. and others.", 1),
        ("一。二。", 2),
        ("One. ...", 1),
        ("Part 3.6. Then...", 2),
    ],
)
def test_a_sentence_ends_with_a_mark_before_a_space(text, count):
    assert len(sentence_ends(text)) + 1 == count


@pytest.mark.parametrize(
    "unit", ["!", ". ", "...", "-", "https://", "https://.", "[", "a.", "' ", "1,", "。", "\n", "A. "]
)
def test_time_grows_with_the_length_only(unit):
    text = GOOD + unit * 100_000 + GOOD
    start = time.process_time()
    for family in ("gopher", "repetition", "c4", "fineweb"):
        Quality(rules=[family], c4_max_word_length=None).apply([row(text)])
    split_words(text), sentence_ends(text)
    assert time.process_time() - start < 5, "a quadratic search takes minutes"


# ── The step ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_good_document_is_left_alone():
    assert outcome(GOOD) == row(GOOD)


def test_a_row_is_dropped_by_the_first_family_that_refuses_it():
    assert outcome("Too short.") == Drop("gopher_too_short")
    assert outcome("Too short.", rules=["c4", "gopher"]) == Drop("c4_few_sentences")
    assert outcome("Too short.", rules=["fineweb", "gopher"]) == Drop("fineweb_short_lines")


def test_removed_lines_are_counted_once_a_rule_and_later_families_see_what_is_left():
    noisy = f"{GOOD}\nPlease enable JavaScript to see us.\nHome\nAbout us\nWe use cookies here."
    kept = outcome(noisy)
    assert kept.values == {"text": GOOD}
    assert kept.reasons == ["quality.c4_javascript", "quality.c4_no_terminal_punct", "quality.c4_policy"]
    lists = GOOD + "\n- x" * 30
    assert outcome(lists, rules=["fineweb"]) == Drop("fineweb_short_lines")
    assert outcome(lists, rules=["c4", "fineweb"]).values == {"text": GOOD}


def test_a_dropped_row_stays_as_it_was_read():
    given = row(GOOD + "\nHome\n", more="short")
    assert Quality(columns=["text", "more"], rules=["c4"]).apply([given]) == [Drop("c4_few_sentences")]
    assert given == row(GOOD + "\nHome\n", more="short")


def test_the_usual_column_is_judged_and_others_are_not():
    labelled = row(GOOD, label="even", url="https://example.com")
    assert Quality().apply([labelled]) == [labelled]
    only = Row({"content": "short", "title": "none"}, HERE)
    assert Quality().apply([only]) == [Drop("gopher_too_short")]
    assert Quality(columns=["title"], rules=["repetition"]).apply([only]) == [only]


def test_texts_inside_a_column_are_judged_one_by_one():
    chat = Row({"messages": [{"content": GOOD}, {"content": GOOD + "\nHome"}]}, HERE)
    (kept,) = Quality(columns=["messages"]).apply([chat])
    assert kept.values == {"messages": [{"content": GOOD}, {"content": GOOD}]}
    assert kept.reasons == ["quality.c4_no_terminal_punct"]


def test_a_row_without_a_text_is_dropped():
    assert Quality().apply([row(None)]) == [Drop("no_text")]


def test_a_column_that_is_not_there_is_named_with_the_nearest():
    with pytest.raises(DataError, match=r"rows\.jsonl.* has no column 'texts'.*did you mean 'text'"):
        Quality(columns=["texts"]).apply([row(GOOD)])


def test_which_of_several_columns_holds_the_text_must_be_said():
    with pytest.raises(DataError, match=r"several columns hold a string.*--quality\.columns.*'body', 'title'"):
        Quality().apply([Row({"body": GOOD, "title": "x"}, HERE)])
    with pytest.raises(DataError, match="no column holds a string"):
        Quality().apply([Row({"body": 1}, HERE)])


def test_a_family_that_does_not_exist_is_refused():
    with pytest.raises(ValidationError, match="gopher"):
        Quality(rules=["gofer"])
    with pytest.raises(ValidationError, match="at least 1"):
        Quality(rules=[])


def test_it_travels_to_another_process():
    copied = pickle.loads(pickle.dumps(Quality(gopher_min_words=3, repetition_max_top={2: 0.5})))  # noqa: S301
    assert copied.options() == Quality(gopher_min_words=3, repetition_max_top={2: 0.5}).options()


def test_a_run_counts_what_was_dropped_and_changed(make_run, tmp_path):
    texts = [GOOD, "Too short.", GOOD + "\nHome", "{" + GOOD]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"text": text, "label": "x"}) + "\n" for text in texts))
    run = make_run(Quality(), data=str(data), eval_share=0)
    report = run.rows("train").report
    run.close()
    assert report.dropped == {"quality.gopher_too_short": 1, "quality.c4_curly_bracket": 1}
    assert report.changed == {"quality.c4_no_terminal_punct": 1}
    assert (report.read, report.kept) == (4, 2)


NOISY = [{"text": text, "label": "x"} for number in range(10) for text in (f"{GOOD} {number}", f"{GOOD}\nHome {number}",
         f"Short {number}.", f"{GOOD}\n{{ {number} }} is it.")]  # fmt: skip
CHECKS = [
    *plugin_checks(Quality, rows=NOISY),
]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_it_conforms(check: Check) -> None:
    check()
