"""Where personal data stands in a text. Every pattern is bounded or anchored, so that time is linear in the text."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]

# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

_KEY = re.compile(
    r"""
    -----BEGIN\ [A-Z0-9 ]{0,30}PRIVATE\ KEY(?:\ BLOCK)?-----
      (?: (?:[^-]|-(?!----))*+ -----END\ [A-Z0-9 ]{0,30}PRIVATE\ KEY(?:\ BLOCK)?-----
        | (?:\s*+[A-Za-z0-9+/=]{16,}+)*+ )
    | (?<![\w-]) (?:
        (?:AKIA|ASIA)[A-Z0-9]{16}
      | gh[pousr]_[A-Za-z0-9]{36,255} | github_pat_[A-Za-z0-9_]{22,255} | glpat-[\w-]{20,60}
      | sk-(?=[\w-]{0,200}[0-9])(?=[\w-]{0,200}[A-Z])[\w-]{20,200}
      | [rs]k_live_[A-Za-z0-9]{16,250} | hf_[A-Za-z0-9]{30,60} | AIza[\w-]{35} | xox[abeoprs]-[A-Za-z0-9-]{10,250}
      | eyJ[\w-]{8,}+\.eyJ[\w-]{8,}+\.[\w-]*+
    ) (?![\w-])
    """,
    re.VERBOSE | re.ASCII,
)


# Looking for these is many times faster than trying the pattern at each character.
_KEY_STARTS = (
    *("-----BEGIN ", "AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "sk-", "k_live_"),
    *("hf_", "AIza", "xox", "eyJ"),
)


def _keys(text: str) -> Iterator[Span]:
    if any(start in text for start in _KEY_STARTS):
        yield from (match.span() for match in _KEY.finditer(text))


# ── mail ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

_EMAIL = re.compile(
    r"(?<![\w%+-])[\w%+-][\w.%+-]{0,63}+@(?:[^\W_](?:[^\W_]|-){0,62}\.){1,8}(?:[^\W\d_]{2,24}|xn--[a-z0-9-]{2,59})(?![\w@-])"
)
_FILES = (".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".css", ".js", ".py", ".html")


def _emails(text: str) -> Iterator[Span]:
    if "@" not in text:
        return
    for match in _EMAIL.finditer(text):
        if not match[0].lower().startswith("git@") and not match[0].lower().endswith(_FILES):
            yield match.span()


# ── numbers with check digits ────────────────────────────────────────────────────────────────────────────────────────

_IBAN_COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FK FO FI GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
_IBAN_LENGTHS = {country: length for length, countries in _IBAN_COUNTRIES.items() for country in countries.split()}
_IBAN_START = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?=[ -]?[A-Za-z0-9])")
_IBAN_BODY = re.compile(r"[ -]?[A-Za-z0-9]")


def _ibans(text: str) -> Iterator[Span]:
    done = 0
    for match in _IBAN_START.finditer(text):
        length = _IBAN_LENGTHS.get(match[0][:2].upper())
        if length is None or match.start() < done:
            continue
        end = match.end()
        for _ in range(length - 4):
            step = _IBAN_BODY.match(text, end)
            if step is None:
                break
            end = step.end()
        else:
            if not text[end : end + 1].isalnum() and _remainder(text[match.start() : end]) == 1:
                done = end
                yield match.start(), end


def _remainder(iban: str) -> int:
    compact = iban.replace(" ", "").replace("-", "").upper()
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97


_CARD = re.compile(
    r"(?<![\w.-])(?:[0-9]{14,19}|[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{2,7}"
    r"|[0-9]{4}([ -])[0-9]{6}\2[0-9]{4,5})(?![\w-])"
)
_ISSUERS = re.compile(
    r"4(?:\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|(?:6011|65\d\d|64[4-9]\d)\d{12,15}|35(?:2[89]|[3-8]\d)\d{12,15}|3(?:0[0-5]|[689]\d)\d{11,16}|62\d{14,17}"
    r"|(?:50|5[6-9]|6[0379])\d{14,17}"
)


def _cards(text: str) -> Iterator[Span]:
    for match in _CARD.finditer(text):
        digits = re.sub("[ -]", "", match[0])
        if _ISSUERS.fullmatch(digits) and _luhn(digits):
            yield match.span()


def _luhn(digits: str) -> bool:
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


# ── addresses of machines ────────────────────────────────────────────────────────────────────────────────────────────

_IPV4 = re.compile(r"(?<![\w.])(?<!\w[/-])(?<![=~^]=)(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w-]|\.[0-9])")
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
_VERSION = re.compile(r"(?:\bv|versions?|release|build|ver|rev|firmware|chapter|section)[.:=\s]{0,3}\Z", re.IGNORECASE)
_LONGEST_VERSION_WORD = 12


def _ips(text: str) -> Iterator[Span]:
    spans = [span for span in _ipv4(text) if _public(text[slice(*span)])]
    for match in _IPV6.finditer(text):
        address = match[0] if match[0].endswith("::") else match[0].rstrip(":")
        if _public(address):
            spans.append((match.start(), match.start() + len(address)))
    return iter(sorted(spans))


def _ipv4(text: str) -> Iterator[Span]:
    for match in _IPV4.finditer(text):
        single_digits = len(match[0]) == len("1.2.3.4")
        before = text[max(0, match.start() - _LONGEST_VERSION_WORD) : match.start()]
        if not single_digits and not _VERSION.search(before):
            yield match.span()


def _public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


# ── phones ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_PHONE = re.compile(
    r"""
    (?<![\w+.]) \+ [1-9] (?:[ ./-]?(?:[0-9]|\([0-9]{1,4}\))){7,14} (?!\w)
    | (?<![\w+.]) 00 [1-9][0-9]{0,2} [ ./-] (?:[ ./-]?(?:[0-9]|\([0-9]{1,4}\))){6,12} (?!\w)
    | (?<![\w+./-]) (?:\+?1[ .-])? (?:\([2-9][0-9]{2}\)\ ? | [2-9][0-9]{2}[ .-]) [2-9][0-9]{2}[.\ -][0-9]{4} (?![.-]?\w)
    | \b(?:phone|telephone|telefon|tel|fax|mobile|mobil|cell|call)\b (?:\ number)?\.?:?\ ?
      (?![0-9]{4}-[0-9]{2}-[0-9]{2}\b)
      (?P<number> (?:[0-9]|\([0-9]{1,5}\)) (?:[ ./-]?(?:[0-9]|\([0-9]{1,4}\))){5,14}) (?!\w)
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_DECIMAL = re.compile(r"\+\d+\.\d+")


def _phones(text: str) -> Iterator[Span]:
    for match in _PHONE.finditer(text):
        if not _DECIMAL.fullmatch(match[0]):
            yield match.span("number" if match["number"] else 0)


_DIGIT = re.compile("[0-9]")


def _numeric(finder: Callable[[str], Iterator[Span]]) -> Callable[[str], Iterator[Span]]:
    return lambda text: finder(text) if _DIGIT.search(text) else iter(())


FINDERS: dict[str, Callable[[str], Iterator[Span]]] = {
    "key": _keys,
    "email": _emails,
    "iban": _numeric(_ibans),
    "card": _numeric(_cards),
    "ip": _numeric(_ips),
    "phone": _numeric(_phones),
}
"""By kind, in the order in which they are looked for: each yields its finds from left to right, none overlapping."""
