"""The rules agree with datatrove's filters, document by document.

datatrove asks spaCy for the words and sentences of English, which hfx does not install: here both sides split them as
hfx does, through the interface that datatrove has for a tokenizer.
"""

from __future__ import annotations

import json
import pickle
from collections import Counter
from itertools import pairwise

import pytest
from datatrove.data import Document as TheirDocument
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.utils import text as their_text
from datatrove.utils import word_tokenizers
from pydantic import ValidationError

from hfx import DataError, Drop, Place, Row
from hfx.testing import Check, plugin_checks
from hfx_plugins.cleaning.document_impl import (
    PUNCTUATION,
    TERMINAL,
    Document,
    sentence_ends,
    split_words,
)
from hfx_plugins.cleaning.quality import Quality
from hfx_plugins.cleaning.quality_impl import FAMILIES
from plugins.quality_documents import AGAIN, SLIDES, TOP, Slide, mixture

REASONS = {
    "gopher": {
        "gopher_short_doc": "gopher_too_short",
        "gopher_long_doc": "gopher_too_long",
        "gopher_below_avg_threshold": "gopher_short_words",
        "gopher_above_avg_threshold": "gopher_long_words",
        "gopher_too_many_hashes": "gopher_hashes",
        "gopher_too_many_ellipsis": "gopher_ellipses",
        "gopher_too_many_bullets": "gopher_bullet_lines",
        "gopher_too_many_end_ellipsis": "gopher_ellipsis_lines",
        "gopher_below_alpha_threshold": "gopher_few_alpha_words",
        "gopher_enough_stop_words": "gopher_few_stop_words",
    },
    "repetition": {
        "empty": "repetition_empty",
        "dup_para_frac": "repetition_paragraphs",
        "dup_para_char_frac": "repetition_paragraph_characters",
        "dup_line_frac": "repetition_lines",
        "dup_line_char_frac": "repetition_line_characters",
        **{f"top_{n}_gram": f"repetition_top_{n}_gram" for n in TOP},
        **{f"duplicated_{n}_n_grams": f"repetition_duplicate_{n}_gram" for n in AGAIN},
    },
    "c4": {
        "lorem_ipsum": "c4_lorem_ipsum",
        "curly_bracket": "c4_curly_bracket",
        "too_few_sentences": "c4_few_sentences",
    },
    "fineweb": {
        "empty": "fineweb_empty",
        "line_punct_ratio": "fineweb_no_terminal_punct",
        "short_line_ratio": "fineweb_short_lines",
        "char_dup_ratio": "fineweb_repeated_characters",
        "list_ratio": "fineweb_line_breaks",
    },
}
"""By family: datatrove's reasons and ours."""
CHANGES = {"c4_long_word", "c4_citation", "c4_no_terminal_punct", "c4_short_line", "c4_javascript", "c4_policy",
           "c4_whitespace"}  # fmt: skip
GOOD = """The lighthouse stood at the end of a narrow road, and nobody had climbed its stairs for years.
On clear mornings fishermen could see the white tower from far beyond the bay.
They used to say that its lamp would have burned forever, with oil from a hidden well.
My grandmother knew better, because she had been the last keeper's daughter.
Every evening she carried bread up to him, counted ships until dusk, then walked home alone."""


HERE = Place("here", "rows.jsonl", 3)


class OwnSplitter(word_tokenizers.WordTokenizer):
    """hfx's words and sentences as a tokenizer of datatrove."""

    def word_tokenize(self, text):
        return split_words(text)

    def sent_tokenize(self, text):
        return [text[start:end].strip() for start, end in self.span_tokenize(text)]

    def span_tokenize(self, text):
        ends = [0, *sentence_ends(text), len(text)]
        return list(pairwise(ends))


@pytest.fixture(scope="module")
def theirs():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_tokenizers, "load_word_tokenizer", lambda language: OwnSplitter(language))
        yield {
            "gopher": GopherQualityFilter(),
            "repetition": GopherRepetitionFilter(),
            "c4": C4QualityFilter(),
            "fineweb": FineWebQualityFilter(),
        }


def our_verdict(family, text, limits=None):
    document = Document(text)
    return FAMILIES[family](document, limits or Quality()), document.text, document.reasons


def their_verdict(family, text, filters):
    document = TheirDocument(text=text, id="0")
    found = filters[family].filter(document)
    return (None, document.text) if found is True else (REASONS[family][found[1]], text)


def row(text, **values):
    return Row({"text": text, **values}, HERE)


def outcome(text, **options):
    return Quality(**options).apply([row(text)])[0]


# ── Agreement with datatrove ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("family", FAMILIES)
def test_ten_thousand_documents_have_the_verdicts_of_datatrove(family, theirs):
    seen = Counter()
    for number, text in enumerate(mixture(10_000)):
        reason, changed, changes = our_verdict(family, text)
        assert (reason, changed) == their_verdict(family, text, theirs), f"document {number}: {text!r}"
        seen.update([reason, *changes])
    expected = {*REASONS[family].values(), *(CHANGES if family == "c4" else ())} - {"gopher_too_long"}
    assert seen.keys() - {None} == expected, "a rule was not tried"
    assert 500 < seen[None] < 9_500, "nearly all documents have the same verdict"


@pytest.mark.parametrize("slide", SLIDES, ids=str)
def test_a_rule_flips_at_the_document_at_which_datatrove_flips(slide: Slide, theirs):
    broken = []
    for text in slide.documents():
        reason, changed, changes = our_verdict(slide.family, text)
        assert (reason, changed) == their_verdict(slide.family, text, theirs), text
        broken.append(slide.reason in (reason, *changes))
    assert set(broken) == {True, False}, "the slide is on one side of the limit only"


def test_every_reason_has_a_slide():
    slid = {slide.reason for slide in SLIDES}
    every = {ours for family in REASONS.values() for ours in family.values()} | CHANGES
    assert every - slid == {"repetition_empty", "fineweb_empty", "c4_whitespace"}


@pytest.mark.parametrize("slide", SLIDES, ids=str)
def test_an_option_switches_the_rule_off(slide: Slide):
    limits = Quality(**slide.off)
    for text in slide.documents():
        reason, _, changes = our_verdict(slide.family, text, limits)
        assert slide.reason not in (reason, *changes)


def test_other_limits_are_those_of_datatrove(theirs):
    limits = Quality(
        gopher_min_words=10, gopher_max_words=60, gopher_min_word_length=4, gopher_stop_words=["zzzz", "the"],
        gopher_min_stop_words=1, repetition_max_top={2: 0.1}, repetition_max_duplicate={5: 0.05},
        repetition_max_lines=0.1, c4_min_sentences=2, c4_min_line_words=5, c4_require_punctuation=False,
        fineweb_min_punctuated_lines=0.9, fineweb_allow_no_punctuation=True, fineweb_short_line=20,
        fineweb_max_line_breaks=0.1,
    )  # fmt: skip
    filters = {
        "gopher": GopherQualityFilter(
            min_doc_words=10, max_doc_words=60, min_avg_word_length=4, stop_words=["zzzz", "the"], min_stop_words=1
        ),
        "repetition": GopherRepetitionFilter(dup_line_frac=0.1, top_n_grams=((2, 0.1),), dup_n_grams=((5, 0.05),)),
        "c4": C4QualityFilter(min_num_sentences=2, min_words_per_line=5, filter_no_terminal_punct=False),
        "fineweb": FineWebQualityFilter(
            line_punct_thr=0.9, line_punct_exclude_zero=True, short_line_length=20, new_line_ratio=0.1
        ),
    }
    for text in mixture(500, seed=1):
        for family in FAMILIES:
            assert our_verdict(family, text, limits)[:2] == their_verdict(family, text, filters), (family, text)


def test_the_marks_are_those_of_datatrove():
    assert TERMINAL == their_text.TERMINAL_PUNCTUATION
    assert PUNCTUATION == their_text.PUNCTUATION_SET


# ── Words and sentences ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Well-known, isn't it?", ["Well", "-", "known", ",", "isn", "'t", "it", "?"]),
        ("It's 3.14 or 1,000...", ["It", "'s", "3.14", "or", "1,000", "..."]),
        ("so -- what…", ["so", "--", "what", "…"]),
        ("中文。 naïve\u00a0café", ["中文", "。", "naïve", "café"]),
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
        ("一。二。", 2),
        ("One. ...", 1),
    ],
)
def test_a_sentence_ends_with_a_mark_before_a_space(text, count):
    assert len(sentence_ends(text)) + 1 == count


def test_characters_are_counted_in_words_that_share_none_of_their_borders(theirs):
    """datatrove compares n-grams without their spaces: `ab c` is a repetition of `a bc`."""
    text = "ab c d e f zz a bc d e f"
    assert our_verdict("repetition", text, Quality(repetition_max_top={}))[0] == "repetition_duplicate_5_gram"
    theirs = {"repetition": GopherRepetitionFilter(top_n_grams=())}
    assert their_verdict("repetition", text, theirs)[0] == "repetition_duplicate_5_gram"


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
    *plugin_checks(Quality, options={"rules": ["gopher"], "gopher_min_words": 20}),
]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_it_conforms(check: Check) -> None:
    check()
