from __future__ import annotations

import random
import sys
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfx import DataError, Drop, Place, Row
from hfx.testing import Check, plugin_checks
from hfx_plugins.cleaning.html import Html

SENTENCE = "This is a sentence of the main text, and it is long enough to be taken for one. "
PAGE = (
    "<!DOCTYPE html><html><head><title>T</title><style>p{}</style></head><body><nav><a href=/>Home</a></nav>"
    f"<article><h1>Heading</h1><p>{SENTENCE * 5}</p></article><footer>Imprint</footer><script>var x = 1;</script>"
)


def outcome(text: str, **options: Any) -> Row | Drop:
    (out,) = Html(**options).apply([Row({"text": text}, Place("s", "f", 1))])
    return out


def as_text(text: str, **options: Any) -> str:
    out = outcome(text, **options)
    assert isinstance(out, Row), out
    return str(out.values["text"])


@pytest.mark.parametrize(
    "check",
    [
        *plugin_checks(Html, rows=[{"text": f"<p>row {n}</p>" if n % 2 else "<script>x</script>"} for n in range(40)]),
        *plugin_checks(
            Html, options={"main_text": True}, rows=[{"text": PAGE.replace("Heading", f"H{n}")} for n in range(20)]
        ),
    ],
    ids=str,
)
def test_it_conforms(check: Check) -> None:
    check()


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>Hello <b>w</b>orld</p><p>two<br>three</p>", "Hello world\n\ntwo\nthree"),
        ("<h1>Title</h1>text   more\n line", "Title\n\ntext more line"),
        ("<ul><li>one<li>two <i>x</i></ul>after", "one\ntwo x\n\nafter"),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td></td><td>d</table>", "a\tb\nd"),
        ("before<pre>\n  a\n    b</pre>", "before\n\n  a\n    b"),
        ("<div>a</div><div><div>b</div></div>", "a\nb"),
        ("<p>caf&eacute; &amp; &#x4e2d; &lt;b&gt;</p>", "café & 中 <b>"),
        ("<div>a<script>if (a < b) {}</script><style>p{}</style><!-- no -->b</div>", "ab"),
        ("<p>un<b>closed <i>tags</p> <p>go on", "unclosed tags\n\ngo on"),
        ("<p>one</p></div></html></p>two", "one\n\ntwo"),
        ('<a href="x">link</a> <a href=y>more', "link more"),
    ],
)
def test_blocks_are_lines_and_entities_are_decoded(html: str, text: str) -> None:
    out = outcome(html)
    assert isinstance(out, Row)
    assert (out.values["text"], out.reasons) == (text, ["html.text"])


@pytest.mark.parametrize(
    "text",
    ["plain", "a < b and c > d", "List<int> x; Map<String, List<Object>> y", "usage: cp <source> <dest> <title>", "<3",
     "std::vector<T> and Vec<Table>", "5 <a and b> 3", "AT&amp;T", "<https://example.com>", "x <p",
     "", "<", "<>", "< p >"],
)  # fmt: skip
@pytest.mark.parametrize("options", [{}, {"main_text": True}])
def test_text_without_tags_passes_unchanged(text: str, options: dict[str, Any]) -> None:
    out = outcome(text, **options)
    assert isinstance(out, Row)
    assert (out.values["text"], out.reasons) == (text, [])


def test_scripts_styles_and_navigation_are_left_out() -> None:
    assert as_text(PAGE) == f"Heading\n\n{SENTENCE * 5}".strip()
    assert as_text(PAGE, keep_navigation=True).startswith("Home\n\nHeading")
    assert as_text(PAGE, keep_navigation=True).endswith("Imprint")


def test_main_text_is_what_trafilatura_finds() -> None:
    page = PAGE.replace("<article>", "<div class=sidebar>Buy now</div><article>")
    out = outcome(page, main_text=True)
    assert isinstance(out, Row)
    assert out.values["text"] == f"Heading\n{SENTENCE * 5}".strip()
    assert out.reasons == ["html.main_text"]


def test_a_page_without_text_is_dropped_with_a_reason_and_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    empty = "<html><body><script>var x = 1;</script></body></html>"
    assert outcome(empty) == Drop("no_text")
    assert outcome(empty, main_text=True) == Drop("no_main_text")
    assert capfd.readouterr() == ("", "")


def test_a_dropped_row_is_left_as_it_was() -> None:
    row = Row({"one": "<p>a</p>", "two": "<br>"}, Place("s", "f", 1))
    assert Html().apply([row]) == [Drop("no_text")]
    assert row.values == {"one": "<p>a</p>", "two": "<br>"}
    assert not row.reasons


def test_columns_narrow_what_is_read() -> None:
    row = Row({"text": "<p>a</p>", "raw": "<p>b</p>"}, Place("s", "f", 1))
    (out,) = Html(columns=["text"]).apply([row])
    assert isinstance(out, Row)
    assert out.values == {"text": "a", "raw": "<p>b</p>"}
    with pytest.raises(DataError, match="did you mean 'text'"):
        Html(columns=["txet"]).apply([row])


HOSTILE = {
    "nested blocks": "<div>" * 900_000,
    "formatting that is opened again": "".join(f"<p><b id={n}>x" for n in range(100_000)),
    "formatting opened again by closed blocks": "".join(f"<b id={n}>" for n in range(330)) + "<div>x</div>" * 300_000,
    "end tags that reach nothing": "<div><table><tr><td></div></table>" * 100_000,
    "items in a drawing": "<svg>" + "<li>" * 1_000_000,
    "nested formatting": "<b></p>" * 500_000,
    "links in tables": "<a><table><td>" * 300_000,
    "headings": "<h1>" * 500_000,
}


@pytest.mark.parametrize("html", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_document_is_dropped_before_a_parser_sees_it(html: str) -> None:
    start = time.process_time()
    assert outcome(html) == Drop("too_deep")
    assert time.process_time() - start < 10


LARGE = {
    "paragraphs": "<p>x" * 200_000,
    "breaks": "x<br>" * 200_000,
    "angle brackets": "<" * 1_000_000 + "<p>x",
    "attributes": "<p>x<p " + "a=b " * 250_000 + ">",
    "nested as deep as allowed": ("<div>" * 998 + "x" + "</div>" * 998) * 80,
    "misnested": "<b><div>x</b></div>" * 50_000,
    "spaces": "<p" + " " * 1_000_000 + ">x",
}


@pytest.mark.parametrize("html", LARGE.values(), ids=LARGE.keys())
def test_a_large_document_takes_seconds_at_most(html: str) -> None:
    start = time.process_time()
    assert isinstance(outcome(html), Row)
    assert time.process_time() - start < 10


def test_longest_and_deepest_are_options() -> None:
    assert outcome("<p>12345</p>", max_characters=11) == Drop("too_long")
    assert as_text("<p>12345</p>", max_characters=12) == "12345"
    deep = "<div>" * 30 + "x" + "</div>" * 30
    assert outcome(deep, max_depth=29) == Drop("too_deep")
    assert as_text(deep, max_depth=30) == "x"
    assert as_text("<div><font color=red>x</div>" * 500) == "\n".join(["x"] * 500)


PIECES = st.sampled_from(
    ["<p>", "</p>", "<div", ">", "<", "</", "<b>", "</b>", "<table>", "<td>", "</table>", "<!--", "-->", "<![CDATA[",
     "]]>", "<script>", "</script>", "<svg>", "<select>", "<option>", "&amp", "&#x", "&#0;", "\x00", "\ud800", "text ",
     "<textarea>",
     "<pre>", "\n", "<a href='", "'", '"', "<template>", "<frameset>", "<html>", "<body>", "</body>", "<br/>", "<?xml",
     "?>"]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_broken_html_never_crashes(html: str) -> None:
    out = outcome(html)
    if isinstance(out, Row):
        assert bool(out.reasons) == (out.values["text"] != html)


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_broken_html_never_crashes_the_search_for_main_text(html: str) -> None:
    assert isinstance(outcome(html, main_text=True), Row | Drop)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8), min_size=1, max_size=20),
    st.randoms(),
)
def test_no_word_is_lost_and_the_order_stays(words: list[str], chance: random.Random) -> None:
    html = "".join(f"<{tag}>{word}</{tag}> " for word in words for tag in [chance.choice(["p", "b", "li", "h2", "td"])])
    assert as_text("<p></p>" + html).split() == words


@pytest.mark.parametrize(("package", "main_text"), [("selectolax", False), ("trafilatura", True)])
def test_without_its_package_the_check_says_what_to_install(
    package: str, main_text: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    (problem,) = Html(main_text=main_text).hfx_check()
    assert problem.message == f"'html' needs the package {package}; pip install 'hfx[clean]'"
