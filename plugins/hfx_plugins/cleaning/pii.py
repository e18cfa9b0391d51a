"""Personal data and secrets in text."""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal

from hfx import Drop, Plugin, Row, Rows, hookimpl


class Pii(Plugin):
    """Mask personal data and secrets, or drop the rows that hold some: mail, phone, IBAN, cards, IP addresses, keys.

    Patterns find what has a telling form; names, street addresses and what is written out in words they do not. What
    has check digits counts only where they are right. A row counts once for each kind in it, as changed or as dropped
    (`pii.email`); one that is dropped counts for the first kind in the order of the options below.
    """

    columns: list[str] | None = None
    """Columns to search; none: every string of the row, those inside lists and mappings included."""
    action: Literal["mask", "drop"] = "mask"
    """Write `mask` over what is found, or drop the row."""
    mask: str = "<{KIND}>"
    """What is written over a find; `{KIND}` and `{kind}` stand for its kind (`<EMAIL>`). Empty: cut it out."""
    key: bool = True
    """Find secrets: private keys in PEM blocks, JSON web tokens, and keys with the prefixes of AWS (`AKIA`), GitHub
    (`ghp_`, `github_pat_`), GitLab, OpenAI and Anthropic (`sk-`), Google, Hugging Face, Slack and Stripe."""
    email: bool = True
    """Find mail addresses; not `git@HOST`, and not file names such as `logo@2x.png`."""
    iban: bool = True
    """Find bank accounts: an IBAN of its country's length with a right remainder modulo 97, with or without spaces."""
    card: bool = True
    """Find payment cards: a number in an issuer's range that passes Luhn's test, in one piece or in groups."""
    ip: bool = True
    """Find public IPv4 and IPv6 addresses.

    Private and reserved ones name nobody and stay. So does what looks like a version: `1.2.3.4` (four single digits),
    or an address behind `v`, `version`, `==` or a name with `/` or `-`.
    """
    phone: bool = True
    """Find phone numbers: international ones (`+49 30 1234567`), North American ones with separators
    (`(212) 555-0123`), and any number behind `phone`, `tel`, `mobile`, `fax` or `call`. Other national numbers are
    left, as they look like any number."""

    @hookimpl(wrapper=True)
    def hfx_source(self) -> Generator[None, Rows, Rows]:
        """Return the rows with this step at the end."""
        rows = yield
        return rows.then(self)

    def apply(self, rows: list[Row]) -> list[Row | Drop]:
        """Return each row with its finds masked, or the kind for which it is dropped."""
        from hfx_plugins.cleaning.pii_impl import guard

        return [guard(row, self) for row in rows]
