from __future__ import annotations

import json

import pytest

from hfx import Place, Row
from hfx.cache import prune
from hfx.errors import DataError
from hfx_plugins.cleaning.exact_dedup import ExactDedup


def rows_of(*values, numbers=None):
    numbers = numbers or range(len(values))
    made = [value if isinstance(value, dict) else {"text": value} for value in values]
    return [Row(value, Place("s", "f", n + 1), n) for n, value in zip(numbers, made, strict=True)]


def test_of_equal_texts_the_lowest_number_stays_whatever_the_order():
    drops = ExactDedup().drops(rows_of("a", "b", "a", "a", "b", numbers=[7, 3, 5, 9, 4]))
    assert drops == {7: "duplicate", 9: "duplicate", 4: "duplicate"}
    assert drops.facts == {"rows": 5, "clusters": 2}


def test_whitespace_counts_for_nothing_unless_asked():
    rows = rows_of("a b", " a\n\n b\t", "a\u00a0b", "ab")
    assert set(ExactDedup().drops(rows)) == {1, 2}
    assert not ExactDedup(collapse_whitespace=False).drops(rows)


def test_case_counts_unless_told_otherwise():
    rows = rows_of("Straße", "straße", "STRASSE")
    assert not ExactDedup().drops(rows)
    assert set(ExactDedup(lowercase=True).drops(rows)) == {1}


def test_columns_narrow_what_is_compared():
    rows = rows_of({"q": "a", "a": "x"}, {"q": "a", "a": "y"}, {"q": "b", "a": "x"})
    assert not ExactDedup().drops(rows)
    assert set(ExactDedup(columns=["q"]).drops(rows)) == {1}
    assert set(ExactDedup(columns=["a"]).drops(rows)) == {2}


def test_where_one_string_ends_and_the_next_begins_counts():
    assert not ExactDedup().drops(rows_of({"q": "a b", "a": "c"}, {"q": "a", "a": "b c"}, {"q": "a b c"}))


def test_strings_inside_lists_and_mappings_are_compared():
    chat = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}
    other = json.loads(json.dumps(chat).replace("yes", "no"))
    assert set(ExactDedup().drops(rows_of(chat, other, json.loads(json.dumps(chat))))) == {2}


def test_rows_without_a_string_are_kept_and_empty_strings_are_equal():
    assert set(ExactDedup().drops(rows_of({"n": 1}, {"n": 1}, {"text": ""}, {"text": " "}))) == {3}


def test_rows_may_lack_a_column_that_others_have():
    assert set(ExactDedup(columns=["text"]).drops(rows_of({"text": "a"}, {"other": "a"}, {"text": "a"}))) == {2}


def test_a_column_that_no_row_has_is_an_error_with_the_nearest():
    with pytest.raises(DataError, match=r"'txet', which no row has; did you mean 'text'\? the rows have text"):
        ExactDedup(columns=["txet"]).drops(rows_of("a", "b"))


def test_lone_surrogates_and_no_rows_are_no_trouble():
    assert set(ExactDedup().drops(rows_of("\ud800", "\ud801", "\ud800"))) == {2}
    assert ExactDedup().drops([]) == {}


def test_a_run_reports_what_was_dropped(make_run, tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("one", "two", "one ", "three")))
    run = make_run(ExactDedup(), data=str(data), eval_share=0)
    assert [row.number for row in run.rows()] == [0, 1, 3]
    report = run.rows().report
    assert report.dropped == {"exact_dedup.duplicate": 1}
    assert report.facts == {"exact_dedup": {"rows": 4, "clusters": 1}}


def test_clearing_the_cache_meanwhile_leaves_what_is_compared(tmp_path):
    class Rows(list):
        path = tmp_path / "rows" / "made"

        def __iter__(self):
            for row in super().__iter__():
                prune(tmp_path, 30)
                yield row

    (tmp_path / "rows").mkdir()
    rows = Rows(Row({"text": text}, Place("a", "a.txt", 1), number) for number, text in enumerate("aba"))
    assert dict(ExactDedup().drops(rows)) == {2: "duplicate"}
    assert not list((tmp_path / "rows").iterdir())
