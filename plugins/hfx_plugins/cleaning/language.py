"""Which language a text is in, and which languages stay."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from difflib import get_close_matches
from typing import Annotated

from pydantic import Field, PositiveInt, field_validator

from hfx import Drop, Plugin, Problem, Row, Rows, hookimpl

_NAMES = """
ace Acehnese, af Afrikaans, am Amharic, an Aragonese, ar Arabic, ary Moroccan Arabic, arz Egyptian Arabic, as Assamese,
az Azerbaijani, ba Bashkir, bcl Bikol, be Belarusian, bg Bulgarian, bn Bengali, br Breton, bs Bosnian, ca Catalan,
crh Crimean Tatar, cs Czech, cy Welsh, da Danish, de German, dz Dzongkha, el Greek, en English, eo Esperanto,
es Spanish, et Estonian, eu Basque, ext Extremaduran, fa Persian, fi Finnish, fo Faroese, fr French, fuv Fulfulde,
fy Frisian, ga Irish, gcf Guadeloupean Creole, gcr Guianese Creole, gd Scottish Gaelic, gl Galician, gom Konkani,
grc Ancient Greek, gu Gujarati, gug Guarani, guw Gun, ha Hausa, hbo Ancient Hebrew, he Hebrew, hi Hindi, hr Croatian,
ht Haitian Creole, hu Hungarian, hy Armenian, id Indonesian, ig Igbo, is Icelandic, it Italian, ja Japanese,
jv Javanese, ka Georgian, kab Kabyle, kik Kikuyu, kk Kazakh, km Khmer, kn Kannada, ko Korean, ku Kurdish, ky Kyrgyz,
la Latin, lb Luxembourgish, lg Ganda, lij Ligurian, ln Lingala, lo Lao, lt Lithuanian, ltg Latgalian, lv Latvian,
mg Malagasy, mk Macedonian, ml Malayalam, mn Mongolian, mr Marathi, ms Malay, mt Maltese, my Burmese, ne Nepali,
nl Dutch, nn Norwegian Nynorsk, no Norwegian, nso Northern Sotho, oc Occitan, om Oromo, or Odia, pa Punjabi,
pcm Nigerian Pidgin, pl Polish, ps Pashto, pt Portuguese, qu Quechua, ro Romanian, ru Russian, rw Kinyarwanda,
sa Sanskrit, sdh Southern Kurdish, se Northern Sami, si Sinhala, sk Slovak, sl Slovenian, sn Shona, so Somali,
sq Albanian, sr Serbian, st Sotho, sv Swedish, sw Swahili, ta Tamil, te Telugu, tg Tajik, th Thai, tk Turkmen,
tl Tagalog, tr Turkish, tt Tatar, ug Uyghur, uk Ukrainian, ur Urdu, uz Uzbek, uzs Southern Uzbek, vec Venetian,
vi Vietnamese, vo Volapük, wa Walloon, wuu Wu Chinese, xh Xhosa, yo Yoruba, yue Cantonese, zh Chinese, zu Zulu,
zxx no language
"""
# Written down, so that a wrong code is an error before anything heavy is imported; a test compares it with the model.
LANGUAGES = dict(entry.split(maxsplit=1) for entry in " ".join(_NAMES.split()).split(", "))
"""ISO 639 codes that can be told apart, with their English names."""


class Language(Plugin):
    """Keep rows in some languages only, as py3langid detects them, and write the language into a column.

    A dropped row counts under the code of its language (`language.fr`), or under `uncertain`; the data report says how
    many of the rows that are left are in which language. The strings of a row are
    judged together, so name the columns where others than the text hold words. Detection is a guess from short
    sequences of letters: it is reliable for a sentence or more (about 50 characters), and close languages (Bosnian,
    Croatian and Serbian; Norwegian and Danish) need a paragraph. Of a word or two it knows next to nothing: `hello`
    comes out as Breton with a probability of 0.07, which `min_probability` then drops. Code and tables come out as
    anything.
    """

    keep: list[str] | None = Field(default=None, min_length=1)
    """ISO 639 codes of the languages to keep (`[en, de]`); none: all. `zxx` stands for text without a letter."""
    min_probability: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Drop rows whose language has a lower probability, as `uncertain`; all languages' probabilities add up to 1."""
    column: str | None = None
    """Write the detected code into this column; the row then counts as changed under its code. None: nowhere."""
    columns: list[str] | None = None
    """Columns to judge, as one text; none: every string of the row but those in `column`."""
    read: PositiveInt = 2000
    """Judge by so many characters from the start: more cost time, and hardly decide otherwise."""

    @field_validator("keep")
    @classmethod
    def _known(cls, codes: list[str] | None) -> list[str] | None:
        for code in codes or ():
            if code not in LANGUAGES:
                raise ValueError(f"'{code}' is no language that can be detected;{_meant(code)}")
        return codes

    @hookimpl
    def hfx_check(self) -> Iterator[Problem]:
        """Report a package that is not installed."""
        from hfx_plugins.cleaning.columns_impl import missing

        yield from missing(self.name, "py3langid")

    @hookimpl(wrapper=True)
    def hfx_source(self) -> Generator[None, Rows, Rows]:
        """Return the rows with this step at the end."""
        rows = yield
        return rows.then(self)

    def apply(self, rows: list[Row]) -> list[Row | Drop]:
        """Return the rows in the languages that are kept, and for each other one its language."""
        from hfx_plugins.cleaning.language_impl import judge

        return [judge(row, self) for row in rows]


def _meant(word: str) -> str:
    """Say the code that was meant: by its name, its case, its region (`en-US`), or its looks."""
    wanted = word.lower().replace("_", "-")
    known = {name.lower(): code for code, name in LANGUAGES.items()} | {code: code for code in LANGUAGES}
    found = (
        [wanted.partition("-")[0]] if wanted.partition("-")[0] in known else get_close_matches(wanted, known, 1, 0.5)
    )
    return f" did you mean '{known[found[0]]}'?" if found else " give ISO 639 codes such as 'en' or 'de'"
