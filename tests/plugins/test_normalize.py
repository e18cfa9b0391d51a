from __future__ import annotations

import sys
import time
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfx import DataError, Drop, Place, Row
from hfx.testing import Check, plugin_checks
from hfx_plugins.cleaning.normalize import Normalize

KINDS = ("encoding", "newlines", "control", "zero_width", "bidi", "nfc")


def mended(text: str, **options: Any) -> tuple[str, list[str]]:
    row = Row({"text": text}, Place("s", "f", 1))
    (out,) = Normalize(**options).apply([row])
    assert isinstance(out, Row)
    return out.values["text"], out.reasons


@pytest.mark.parametrize(
    "check",
    [
        *plugin_checks(Normalize, rows=[{"text": f"row {n}\r\n sch\u00c3\u00b6n\u200b {n}"} for n in range(20)]),
    ],
    ids=str,
)
def test_it_conforms(check: Check) -> None:
    check()


@pytest.mark.parametrize(
    ("given_text", "wanted", "kind"),
    [
        ("schÃ¶n und gÃ¼nstig", "schön und günstig", "encoding"),
        ("It was â€œgoodâ€\x9d", "It was “good”", "encoding"),
        ("one\r\ntwo\rthree\x0cfour\u2028five", "one\ntwo\nthree\nfour\nfive", "newlines"),
        ("a\x00b\x07c\x7f", "abc", "control"),
        ("\x1b[1;31mred\x1b[0m", "red", "control"),
        ("zero\u200bwidth\ufeff and soft\u00adhyphen", "zerowidth and softhyphen", "zero_width"),
        ("hidden\U000e0068\U000e0069 text", "hidden text", "zero_width"),
        ("access\u202e level\u2066 \u200f", "access level ", "bidi"),
        ("cafe\u0301", "café", "nfc"),
    ],
)
def test_each_kind_is_mended_counted_and_can_be_switched_off(given_text: str, wanted: str, kind: str) -> None:
    assert mended(given_text) == (wanted, [f"normalize.{kind}"])
    assert mended(given_text, **dict.fromkeys(KINDS, False) | {kind: True}) == (wanted, [f"normalize.{kind}"])
    assert mended(given_text, **dict.fromkeys(KINDS, False)) == (given_text, [])


@pytest.mark.parametrize(
    "text",
    [
        "plain text\n\twith a tab",
        "“quotes” and ﬁ ligatures and ｗｉｄｅ letters &amp; entities",
        "schön, naïve, 中文, русский, עברית",
        "👨\u200d👩\u200d👧 and 🏳\ufe0f\u200d🌈",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "क\u094d\u200dष",
        "می\u200cخواهم",
        "",
    ],
)
def test_good_text_is_left_alone(text: str) -> None:
    assert mended(text) == (text, [])


def test_a_joiner_that_joins_nothing_is_removed() -> None:
    assert mended("a\u200db\u200cc 😀\u200d end") == ("abc 😀 end", ["normalize.zero_width"])


def test_a_row_counts_once_for_a_kind_however_many_strings_it_changes() -> None:
    row = Row({"messages": [{"content": "a\r\n"}, {"content": "b\r\nc\x00"}]}, Place("s", "f", 1))
    (out,) = Normalize().apply([row])
    assert isinstance(out, Row)
    assert out.values == {"messages": [{"content": "a\n"}, {"content": "b\nc"}]}
    assert out.reasons == ["normalize.newlines", "normalize.control"]


def test_columns_narrow_what_is_mended_and_a_misspelt_one_names_the_nearest() -> None:
    row = Row({"text": "a\r", "raw": "b\r"}, Place("s", "f", 3))
    (out,) = Normalize(columns=["text", "other"]).apply([row])
    assert not isinstance(out, Drop)
    assert out.values == {"text": "a\n", "raw": "b\r"}
    with pytest.raises(DataError, match=r"f:3 has no column 'txet' \(--normalize.columns\); did you mean 'text'\?"):
        Normalize(columns=["txet"]).apply([row])


PIECES = st.sampled_from(
    ["Ã¶", "â€œ", "â€", "\x9d", "Ã", "¶", "\xa0", "\r", "\n", "\x85", "\u2028", "\x0c", "\x1b[3", "1m", "\x1b", "\x00",
     "\u200d", "\u200c", "\u200b", "\u00ad", "👨", "🏴", "\U000e0067", "\U000e007f", "क\u094d", "می", "\u202e", "e",
     "\u0301", "\u0958", "\ufeff", "\ud83d", "\ude00", "a", " ", "ÃƒÂ¶", "é", "ï»¿", "½", "\u0344"]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(), st.lists(PIECES).map("".join)), st.sets(st.sampled_from(KINDS)))
def test_mending_twice_is_mending_once(text: str, off: set[str]) -> None:
    options = dict.fromkeys(off, False)
    once, _ = mended(text, **options)
    assert mended(once, **options) == (once, [])


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_what_comes_out_is_clean(text: str) -> None:
    once, reasons = mended(text)
    assert bool(reasons) == (once != text)
    assert unicodedata.is_normalized("NFC", once)
    assert not set(once) & set("\r\x00\x1b\u202e\u200b\ufeff\x85")
    once.encode()


@pytest.mark.parametrize("piece", ["Ã¶", "\x1b[0", "🏴\U000e0067", "\u200d", "Ã", "\r", "â€œ \u0301"])
def test_a_million_characters_take_seconds_at_most(piece: str) -> None:
    start = time.process_time()
    mended(piece * (1_000_000 // len(piece)))
    assert time.process_time() - start < 10


def test_without_ftfy_the_check_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ftfy", None)
    (problem,) = Normalize().hfx_check()
    assert problem.message == "'normalize' needs the package ftfy; pip install 'hfx[clean]'"
    assert not list(Normalize(encoding=False).hfx_check())
