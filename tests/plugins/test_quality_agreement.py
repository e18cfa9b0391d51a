"""The rules agree with datatrove's filters, document by document.

datatrove asks spaCy for the words and sentences of English; so does hfx with the splitter `spacy`. For the other one,
`regex`, both sides split by it here, through the interface that datatrove has for a tokenizer. Where datatrove has
spaCy and hfx has its own, 2 of 4 x 9,872 verdicts differ (both of `repetition`).
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise, product

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
from hypothesis import given, settings
from hypothesis import strategies as st

from hfx_plugins.cleaning.document_impl import (
    PUNCTUATION,
    TERMINAL,
    Document,
    Regex,
    sentence_ends,
    split_words,
)
from hfx_plugins.cleaning.quality import Quality
from hfx_plugins.cleaning.quality_impl import FAMILIES
from hfx_plugins.cleaning.spacy_impl import Spacy
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
        **{f"duplicated_{n}_n_grams": f"repetition_duplicate_{n}_gram" for n in (2, *AGAIN)},
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


REGEX = Regex()
ELSEWHERE = {"gopher_too_long", "repetition_duplicate_2_gram"}
"""A document of 100,000 words has its slide; n-grams of 2 are judged by other limits only."""


def our_verdict(family, text, limits=None, splitter=REGEX):
    document = Document(text, splitter)
    return FAMILIES[family](document, limits or Quality()), document.text, document.reasons


def their_verdict(family, text, filters):
    document = TheirDocument(text=text, id="0")
    found = filters[family].filter(document)
    return (None, document.text) if found is True else (REASONS[family][found[1]], text)


# ── Agreement with datatrove ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("family", FAMILIES)
def test_ten_thousand_documents_have_the_verdicts_of_datatrove(family, theirs):
    seen = Counter()
    for number, text in enumerate(mixture(10_000)):
        reason, changed, changes = our_verdict(family, text)
        assert (reason, changed) == their_verdict(family, text, theirs), f"document {number}: {text!r}"
        seen.update([reason, *changes])
    expected = {*REASONS[family].values(), *(CHANGES if family == "c4" else ())} - ELSEWHERE
    assert seen.keys() - {None} == expected, "a rule was not tried"
    assert 500 < seen[None] < 9_500, "nearly all documents have the same verdict"


def differing_from_datatrove_as_it_is(documents, splitter):
    filters = {
        "gopher": GopherQualityFilter(),
        "repetition": GopherRepetitionFilter(),
        "c4": C4QualityFilter(),
        "fineweb": FineWebQualityFilter(),
    }
    return [
        (family, number)
        for number, text in enumerate(mixture(documents))
        for family in FAMILIES
        if our_verdict(family, text, splitter=splitter)[:2] != their_verdict(family, text, filters)
    ]


@pytest.mark.parametrize("documents", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_with_spacys_words_no_verdict_differs_from_those_of_datatrove_as_it_is(documents):
    assert differing_from_datatrove_as_it_is(documents, Spacy("quality")) == []


def test_spacy_has_a_word_less_where_it_would_fail():
    assert Spacy("quality").words("It IS_ALPHA, yes") in (["It", "IS_ALPHA", ",", "yes"], ["It", ",", "yes"])


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
    assert every - slid == {"repetition_empty", "fineweb_empty", "c4_whitespace", "repetition_duplicate_2_gram"}


@pytest.mark.parametrize("slide", SLIDES, ids=str)
def test_an_option_switches_the_rule_off(slide: Slide):
    limits = Quality(**slide.off)
    for text in slide.documents():
        reason, _, changes = our_verdict(slide.family, text, limits)
        assert slide.reason not in (reason, *changes)


PIECES = ["a", "a", "b", "ab", "ba", "the", " ", " ", " ", "\n", "\n\n", ".", ". ", "...", "#", "…", "- ", "?", "'",
          "[1]", "{", "•", "\u2028", "_", "é", "。", "１", "\x85", "\x1c", "cccccccccc", "3.5"]  # fmt: skip
LOW = Quality(
    gopher_min_words=3, gopher_max_words=60, gopher_min_word_length=2, gopher_stop_words=["the", "a", "b"],
    gopher_min_stop_words=1, repetition_max_lines=0.4, repetition_max_top={2: 0.4},
    repetition_max_duplicate={2: 0.3, 5: 0.05}, c4_min_sentences=2, c4_min_line_words=2, c4_max_word_length=20,
    c4_require_punctuation=False, fineweb_min_punctuated_lines=0.9, fineweb_allow_no_punctuation=True,
    fineweb_short_line=20, fineweb_max_repeated_characters=0.1, fineweb_max_line_breaks=0.1,
)  # fmt: skip
THEIR_LOW = {
    "gopher": GopherQualityFilter(
        min_doc_words=3, max_doc_words=60, min_avg_word_length=2, stop_words=["the", "a", "b"], min_stop_words=1
    ),
    "repetition": GopherRepetitionFilter(
        dup_line_frac=0.4, top_n_grams=((2, 0.4),), dup_n_grams=((2, 0.3), (5, 0.05))
    ),
    "c4": C4QualityFilter(
        min_num_sentences=2, min_words_per_line=2, max_word_length=20, filter_no_terminal_punct=False
    ),
    "fineweb": FineWebQualityFilter(
        line_punct_thr=0.9, line_punct_exclude_zero=True, short_line_length=20, char_duplicates_ratio=0.1,
        new_line_ratio=0.1,
    ),
}  # fmt: skip


def test_other_limits_are_those_of_datatrove(theirs):
    for text, family in product(mixture(500, seed=1), FAMILIES):
        assert our_verdict(family, text, LOW)[:2] == their_verdict(family, text, THEIR_LOW), family


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
def test_any_text_has_the_verdicts_of_datatrove(theirs, text):
    for family in FAMILIES:
        assert our_verdict(family, text, LOW)[:2] == their_verdict(family, text, THEIR_LOW), family


def test_the_marks_are_those_of_datatrove():
    assert TERMINAL == their_text.TERMINAL_PUNCTUATION
    assert PUNCTUATION == their_text.PUNCTUATION_SET


def test_characters_are_counted_in_words_that_share_none_of_their_borders(theirs):
    """datatrove compares n-grams without their spaces: `ab c` is a repetition of `a bc`."""
    text = "ab c d e f zz a bc d e f"
    assert our_verdict("repetition", text, Quality(repetition_max_top={}))[0] == "repetition_duplicate_5_gram"
    theirs = {"repetition": GopherRepetitionFilter(top_n_grams=())}
    assert their_verdict("repetition", text, theirs)[0] == "repetition_duplicate_5_gram"
