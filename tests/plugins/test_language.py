from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hfx import DataError, Drop, Place, Row
from hfx.testing import Check, plugin_checks
from hfx_plugins.cleaning.language import LANGUAGES, Language

ENGLISH = "The old clock on the wall had stopped a long time ago, and nobody in the house had noticed it."
GERMAN = "Die alte Uhr an der Wand war schon vor langer Zeit stehen geblieben, und niemand hatte es bemerkt."
FRENCH = "La vieille horloge accrochée au mur s'était arrêtée depuis longtemps, et personne ne l'avait remarqué."
CHINESE = "墙上的旧钟很久以前就停了，屋里没有人注意到。"


def outcome(text: str, **options: Any) -> Row | Drop:
    (out,) = Language(**options).apply([Row({"text": text}, Place("s", "f", 1))])
    return out


ROWS = [{"text": f"{text} {n}", "label": "x"} for n in range(10) for text in (ENGLISH, GERMAN, FRENCH)]


@pytest.mark.parametrize(
    "check",
    [
        *plugin_checks(Language, rows=ROWS),
        *plugin_checks(Language, options={"keep": ["en", "de"], "column": "language", "columns": ["text"]}, rows=ROWS),
    ],
    ids=str,
)
def test_it_conforms(check: Check) -> None:
    check()


@pytest.mark.parametrize(("code", "text"), [("en", ENGLISH), ("de", GERMAN), ("fr", FRENCH), ("zh", CHINESE)])
def test_rows_in_other_languages_are_dropped_under_their_code(code: str, text: str) -> None:
    assert isinstance(outcome(text, keep=[code]), Row)
    assert outcome(text, keep=["it", "ja"]) == Drop(code)
    assert isinstance(outcome(text), Row)


def test_an_uncertain_guess_is_dropped_and_the_limit_is_an_option() -> None:
    assert outcome("hello") == Drop("uncertain")
    assert isinstance(outcome("hello", min_probability=0.01), Row)
    assert outcome(ENGLISH, min_probability=1.0) == Drop("uncertain")
    with pytest.raises(ValidationError):
        Language(min_probability=1.5)


@pytest.mark.parametrize("text", ["", " \n", "123 456", "!?", "😀"])
def test_text_without_a_letter_has_no_language(text: str) -> None:
    assert outcome(text, keep=["en"]) == Drop("zxx")
    assert isinstance(outcome(text, keep=["en", "zxx"]), Row)


def test_the_code_is_written_into_a_column_and_counted() -> None:
    row = Row({"text": GERMAN}, Place("s", "f", 1))
    (out,) = Language(column="lang").apply([row])
    assert isinstance(out, Row)
    assert (out.values, out.reasons) == ({"text": GERMAN, "lang": "de"}, ["language.de"])
    (again,) = Language(column="lang").apply([Row(dict(out.values), out.place)])
    assert isinstance(again, Row)
    assert (again.values, again.reasons) == (out.values, [])


def test_a_row_that_stays_is_marked_with_its_language_and_one_that_goes_is_not() -> None:
    rows = [Row({"text": text}, Place("s", "f", n)) for n, text in enumerate((GERMAN, FRENCH))]
    outcomes = Language(keep=["de"]).apply(rows)
    assert (outcomes, [row.marks for row in rows]) == ([rows[0], Drop("fr")], [{"language": "de"}, {}])


def test_columns_name_what_is_judged() -> None:
    row = Row({"text": GERMAN, "boilerplate": ENGLISH * 20}, Place("s", "f", 1))
    assert Language(keep=["en"]).apply([row]) == [row]
    assert Language(keep=["en"], columns=["text"]).apply([row]) == [Drop("de")]
    with pytest.raises(DataError, match="did you mean 'text'"):
        Language(columns=["txet"]).apply([row])


def test_only_the_start_is_read() -> None:
    assert outcome(GERMAN * 20 + ENGLISH * 400, keep=["en"]) == Drop("de")
    assert isinstance(outcome(GERMAN * 20 + ENGLISH * 400, keep=["en"], read=1_000_000, min_probability=0), Row)


@pytest.mark.parametrize(
    ("word", "code"),
    [("german", "de"), ("English", "en"), ("EN", "en"), ("en-US", "en"), ("pt_BR", "pt"), ("frensh", "fr")],
)
def test_an_unknown_code_names_the_nearest(word: str, code: str) -> None:
    with pytest.raises(
        ValidationError, match=f"'{word}' is no language that can be detected; did you mean '{code}'\\?"
    ):
        Language(keep=["it", word])


def test_the_codes_are_those_of_the_model() -> None:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    assert set(LanguageIdentifier.from_model_file(MODEL_FILE).labels) == set(LANGUAGES)


def test_another_process_decides_alike_and_loads_the_model_once() -> None:
    texts = [ENGLISH, GERMAN, FRENCH, CHINESE, "hello", "def f(x): return x"]
    code = (
        "import sys, pickle\n"
        "from hfx_plugins.cleaning import language_impl\n"
        "texts = pickle.load(sys.stdin.buffer)\n"
        "found = [language_impl.detected(text) for text in texts]\n"
        "assert language_impl._classify.cache_info().misses == 1\n"
        "print(found)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(texts), capture_output=True, check=True)
    from hfx_plugins.cleaning.language_impl import detected

    assert done.stdout.decode().strip() == str([detected(text) for text in texts])
    plugin = pickle.loads(pickle.dumps(Language(keep=["en"])))  # noqa: S301 - our own bytes
    assert plugin.options() == Language(keep=["en"]).options()


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_has_a_known_language_with_a_probability(text: str) -> None:
    from hfx_plugins.cleaning.language_impl import detected

    code, probability = detected(text)
    assert code in LANGUAGES
    assert 0 <= probability <= 1.0001


def test_without_its_package_the_check_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid", None)
    (problem,) = Language().hfx_check()
    assert problem.message == "'language' needs the package py3langid; pip install 'hfx[clean]'"
