"""The redactor: what hfx says and writes goes through it, and comes out without the secrets that it knows.

It knows what options name by `env:NAME`, what stands in the environment's variables for tokens, keys and passwords, and
passwords of proxies. In messages it also looks for what has the form of one: passwords in addresses, well-known tokens.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar, cast

T = TypeVar("T")
SHOWN = "***"
_SHORTEST, _SHORTEST_OF_ENVIRONMENT = 4, 8
"""What is shorter would be found in words that are no secret."""
_VARIABLE = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|(API|ACCESS|SECRET|PRIVATE|ACCOUNT|SIGNING)_?KEY"
    r"|ACCESS_KEY_ID)$",
    re.IGNORECASE,
)
_PROXY = re.compile(r"(https?|ftp|all|no)_proxy|.*_(URL|URI|DSN)", re.IGNORECASE)
_FORMS = (
    (re.compile(r"(?<=://)[^\s/?#@:'\"]*:[^\s/?#@'\"]+(?=@)"), SHOWN),
    (
        re.compile(
            r"([?&][\w.-]*(?:token|secret|passw|signature|sig|api_?key|access_?key|credential|auth)[\w.-]*=)[^&\s'\"#]+",
            re.IGNORECASE,
        ),
        rf"\1{SHOWN}",
    ),
    (re.compile(r"(authorization['\"]?\s*[:=]\s*['\"]?(?:\w+\s+)?)[\w.~+/=-]{4,}", re.IGNORECASE), rf"\1{SHOWN}"),
    (re.compile(r"\b(hf_|gh[pousr]_|github_pat_|sk-|xox[abprs]-)[\w-]{20,}"), rf"\1{SHOWN}"),
)
_hidden: dict[str, str] = {}


def hide(secret: str, shown: str = SHOWN) -> None:
    """Have a value replaced from now on in all that this process says and writes."""
    for form in _forms(secret):
        _hidden.setdefault(form, shown)


def _forms(secret: str, shortest: int = _SHORTEST) -> Iterator[str]:
    """Yield a secret as it may be found: as it is, in an address, JSON, Python's quotes, one line, base64."""
    import base64
    import json
    from urllib.parse import quote

    encoded = base64.b64encode(secret.encode(errors="replace")).decode()
    joined = " ".join(secret.split())
    forms = {secret, quote(secret, safe=""), json.dumps(secret)[1:-1], repr(secret)[1:-1], joined, encoded}
    lines = {line.strip() for line in secret.splitlines() if len(line.strip()) >= 16} if "\n" in secret else set()
    yield from (form for form in forms | lines if len(form) >= shortest)


def _known() -> list[tuple[str, str]]:
    """Return what is to be replaced by what, the longest first, for one secret may be a part of another."""
    found = dict(_hidden)
    for name, value in os.environ.items():
        if _VARIABLE.search(name) and not os.path.exists(value):
            found |= {form: found.get(form, SHOWN) for form in _forms(value, _SHORTEST_OF_ENVIRONMENT)}
        elif "@" in value and "://" in value and _PROXY.fullmatch(name):
            for part in _passwords(value):
                found |= {form: found.get(form, SHOWN) for form in _forms(part, _SHORTEST_OF_ENVIRONMENT)}
    return sorted(found.items(), key=lambda pair: -len(pair[0]))


def _passwords(address: str) -> Iterator[str]:
    from urllib.parse import unquote, urlsplit

    try:
        parts = urlsplit(address)
        user, password = parts.username or "", parts.password or ""
    except ValueError:
        return
    if password:
        yield from (password, unquote(password), f"{unquote(user)}:{unquote(password)}")


def redacted(value: T, forms: bool = True) -> T:
    """Return a text, or JSON values, without secrets.

    Args:
        value: Text, or a tree of lists and dictionaries whose texts and keys are looked at.
        forms: Whether to look for what only has the form of a secret, too; not in data of the user.
    """
    return cast("T", _without(value, _known(), forms))


def _without(value: Any, known: list[tuple[str, str]], forms: bool) -> Any:
    if isinstance(value, str):
        for secret, shown in known:
            if secret in value:
                value = value.replace(secret, shown)
        for form, shown in _FORMS if forms else ():
            value = form.sub(shown, value)
        return value
    if isinstance(value, dict):
        return {_without(key, known, forms): _without(item, known, forms) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without(item, known, forms) for item in value]
    return value


def trace(error: BaseException) -> str:
    """Return the traceback of an error."""
    return redacted("".join(traceback.format_exception(error)))


class RedactedStream:
    """A text stream that writes what the redactor leaves, and is the stream beneath in everything else."""

    def __init__(self, stream: TextIO, forms: bool) -> None:
        self._stream = stream
        self._forms = forms

    def write(self, text: str) -> int:
        """Write text, and return how long it was."""
        said = redacted(text, self._forms)
        try:
            self._stream.write(said)
        except UnicodeEncodeError as error:  # a path or a text that the terminal has no signs for
            self._stream.write(said.encode(error.encoding, "backslashreplace").decode(error.encoding))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write lines."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def redacting() -> Iterator[None]:
    """Let all that is printed go through the redactor; on stdout, which may be data, known secrets only."""
    streams = (sys.stdout, sys.stderr)
    redact_streams()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


def redact_streams() -> None:
    """Let all that is printed go through the redactor from now on, in a process that ends with its work."""
    sys.stdout = cast("TextIO", RedactedStream(sys.stdout, forms=False))
    sys.stderr = cast("TextIO", RedactedStream(sys.stderr, forms=True))


def redact_logs() -> None:
    """Let the log lines of all libraries go through the redactor, wherever their handlers write them."""
    import logging

    factory = logging.getLogRecordFactory()
    if getattr(factory, "redacts", False):
        return

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = factory(*args, **kwargs)
        try:
            made.msg, made.args = redacted(made.getMessage()), None
        except (TypeError, ValueError):  # the words do not fit their arguments; logging says so by itself
            return made
        if made.exc_info and made.exc_info[1] is not None:
            made.exc_text = trace(made.exc_info[1]).rstrip()
        return made

    record.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(record)
