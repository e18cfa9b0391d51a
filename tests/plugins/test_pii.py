from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfx import DataError, Drop, Place, Row
from hfx.testing import Check, plugin_checks
from hfx_plugins.cleaning.pii import Pii

KINDS = ("key", "email", "iban", "card", "ip", "phone")
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA75xk\nabc=\n-----END RSA PRIVATE KEY-----"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"
FINDS = {
    "key": [
        "AKIA" + "IOSFODNN7EXAMPLE",
        "ghp_" + "a1B2" * 9,
        "github_pat_" + "11ABCDEFG0" * 3,
        "sk-" + "proj-" + "Ab3dEf6hIj9" * 4,
        "hf_" + "AbCdEfGhIj" * 3,
        JWT,
        PEM,
    ],
    "email": ["jane.doe+list@mail.example.co.uk", "x@y.de", "jörg@müller.de", "a_b-c%d@sub.domain.museum"],
    "iban": ["DE89370400440532013000", "DE89 3704 0044 0532 0130 00", "GB29 NWBK 6016 1331 9268 19", "NO9386011117947"],
    "card": ["4111111111111111", "4111 1111 1111 1111", "5500-0055-5555-5559", "378282246310005", "3782 822463 10005"],
    "ip": ["8.8.4.40", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001:81b::200e"],
    "phone": [
        "+49 30 901820",
        "+1 (212) 555-0123",
        "(212) 555-0123",
        "212-555-0123",
        "0049 30 901820",
        "+4915112345678",
    ],
}
HARMLESS = [
    "version 10.15.7.12 and v1.20.30.40, then 1.2.3.4; foo==10.20.30.40 Chrome/10.20.30.40 linux-5.10.16.30",
    "10.0.0.1, 127.0.0.1, 192.168.1.17, 255.255.255.0 and ::1 are nobody's, and 300.1.2.30 is no address",
    "on 2024-01-15, 15.01.2024, 01/15/2024 at 12:34:56 and 2024-01-15T12:34:56.123456",
    "4111111111111112 fails Luhn, 1234567890123456 has no issuer, and neither has 1700000000000",
    "ISBN 978-3-16-148410-0, ISBN 9783161484100, ISBN 0-306-40615-2, EAN 4006381333931",
    "DE89370400440532013001 fails, and XX89370400440532013000 is nowhere",
    "pi is 3.14159265358979, e+1234567890, +12.51234567 and 0.4111111111111111",
    "@decorator, user@localhost, logo@2x.png, git@github.com:a/b.git, pkg@1.2.3",
    "sha 4111111111111111abcdef, std::vector, a::b, 00:1A:2B:3C:4D:5E",
    "sk-loading-spinner-container, AKIA is a prefix, eyJ is one too, hotel 1234567",
    "phone 2024-01-15; call me maybe; tel aviv 1948",
    "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A\n-----END PUBLIC KEY-----",
]


def guarded(text: str, **options: Any) -> Row | Drop:
    (out,) = Pii(**options).apply([Row({"text": text}, Place("s", "f", 1))])
    return out


def masked(text: str, **options: Any) -> tuple[str, list[str]]:
    out = guarded(text, **options)
    assert isinstance(out, Row)
    return out.values["text"], out.reasons


@pytest.mark.parametrize(
    "check",
    [
        *plugin_checks(Pii, rows=[{"text": f"row {n}, mail me{n}@example.org or +49 30 9018{n}0"} for n in range(20)]),
        *plugin_checks(
            Pii, options={"action": "drop"}, rows=[{"text": f"row {n} {'x@y.de' * (n % 2)}"} for n in range(40)]
        ),
    ],
    ids=str,
)
def test_it_conforms(check: Check) -> None:
    check()


CASES = [pytest.param(kind, find, id=f"{kind}-{number}") for kind in KINDS for number, find in enumerate(FINDS[kind])]


@pytest.mark.parametrize(("kind", "find"), CASES)
def test_each_kind_is_masked_counted_and_can_be_switched_off(kind: str, find: str) -> None:
    text = f"Write to {find}, please. Or ({find})!"
    wanted = f"Write to <{kind.upper()}>, please. Or (<{kind.upper()}>)!"
    assert masked(text) == (wanted, [f"pii.{kind}"])
    assert masked(text, **dict.fromkeys(KINDS, False) | {kind: True}) == (wanted, [f"pii.{kind}"])
    assert masked(text, **dict.fromkeys(KINDS, False)) == (text, [])


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_personal_data_stays(text: str) -> None:
    assert masked(text) == (text, [])


def test_a_number_behind_a_word_for_phone_is_masked_without_the_word() -> None:
    assert masked("Tel.: 030 901820, fax 030/901821")[0] == "Tel.: <PHONE>, fax <PHONE>"


def test_the_mask_is_an_option_and_can_be_nothing() -> None:
    assert masked("mail x@y.de now", mask="[{kind} removed]")[0] == "mail [email removed] now"
    assert masked("mail x@y.de now", mask="***")[0] == "mail *** now"
    assert masked("mail x@y.de now", mask="")[0] == "mail  now"


def test_a_private_key_that_is_cut_off_is_masked_to_the_end_of_its_lines() -> None:
    cut = PEM.partition("\nabc")[0]
    assert masked(f"{cut}\nand then prose")[0] == "<KEY>\nand then prose"


def test_a_row_can_be_dropped_instead_and_is_left_as_it_was() -> None:
    row = Row({"text": "mail x@y.de or +49 30 901820"}, Place("s", "f", 1))
    assert Pii(action="drop").apply([row]) == [Drop("email")]
    assert row.values == {"text": "mail x@y.de or +49 30 901820"}
    assert Pii(action="drop", email=False).apply([row]) == [Drop("phone")]
    assert Pii(action="drop", email=False, phone=False).apply([row]) == [row]


def test_a_row_counts_once_for_a_kind_in_any_of_its_columns() -> None:
    row = Row({"text": "x@y.de a@b.de 8.8.4.40", "more": ["c@d.de"], "raw": "x@y.de"}, Place("s", "f", 1))
    (out,) = Pii(columns=["text", "more"]).apply([row])
    assert isinstance(out, Row)
    assert out.values == {"text": "<EMAIL> <EMAIL> <IP>", "more": ["<EMAIL>"], "raw": "x@y.de"}
    assert out.reasons == ["pii.email", "pii.ip"]
    with pytest.raises(DataError, match="did you mean 'text'"):
        Pii(columns=["txet"]).apply([row])


def test_what_another_find_had_hidden_is_masked_too() -> None:
    assert masked("2606:4700:4700::1111 4111 1111 1111 1111")[0] == "<IP> <CARD>"


PIECES = st.sampled_from(
    [*(find for finds in FINDS.values() for find in finds), " ", ", ", "\n", "x", ".", "1", "a b", "-"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=12).map(" ".join), st.sets(st.sampled_from(KINDS)))
def test_masked_text_has_nothing_left_to_mask(text: str, off: set[str]) -> None:
    options = dict.fromkeys(off, False)
    once, _ = masked(text, **options)
    assert masked(once, **options) == (once, [])


@settings(max_examples=300, deadline=None)
@given(st.integers(10**11, 10**14), st.sampled_from(["4", "51", "37", "6011"]))
def test_one_wrong_digit_makes_a_number_no_card(body: int, issuer: str) -> None:
    head = (issuer + str(body))[: 14 if issuer == "37" else 15].ljust(14 if issuer == "37" else 15, "0")
    hits = [digit for digit in "0123456789" if masked(head + digit, phone=False)[1] == ["pii.card"]]
    assert len(hits) == 1


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_has_a_reason_exactly_where_it_changed(text: str) -> None:
    out, reasons = masked(text)
    assert bool(reasons) == (out != text)


ADVERSARIAL = [
    "a", "a.", "a@", "@", "a.@", "@a.", "a@a.", "1", "1 ", "1-", "1.", "(1", "+1", "+1 ", "00", "12.", "2001:",
    "2001::", "DE12 ", "DE12", "4111 ", "eyJ", "eyJaaaaaaaaaa.", "sk-", "sk-a", "xoxb-", "-----BEGIN PRIVATE KEY-----",
    "-----", "-----BEGIN PRIVATE KEY-----\nAAAAAAAAAAAAAAAAAAAAAAAA\n", "tel ", "phone number ", "call 1", " ", "%+-",
]  # fmt: skip


@pytest.mark.parametrize("piece", ADVERSARIAL)
def test_a_million_hostile_characters_take_a_second_or_so(piece: str) -> None:
    text = piece * (1_000_000 // len(piece)) + "@"
    start = time.process_time()
    guarded(text)
    assert time.process_time() - start < 5
