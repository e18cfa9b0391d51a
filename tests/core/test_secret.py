"""Secrets of options: named, never held; and the redactor, which knows them."""

from __future__ import annotations

import base64
import json
import logging
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretBytes, SecretStr, ValidationError

from hfx import Plugin, Secret, hookimpl, redact, redacted, reveal
from hfx.errors import ConfigError, PluginError
from hfx.layers import DEFAULT
from hfx.manager import ActivePlugin, Manager
from hfx.resolve import resolve, to_yaml
from resolving import FREE

PLAIN = "planted-plain-0c1d2e"


class Inner(BaseModel):
    key: SecretStr


class Vault(Plugin):
    """Holds secrets of every kind."""

    token: SecretStr | None = None
    """One."""
    more: dict[str, SecretStr] = Field(default={})
    """By name."""
    listed: list[SecretStr] = Field(default=[])
    """In a row."""
    inner: Inner | None = None
    """Inside."""
    reference: Secret | None = None
    """Of hfx's own type."""
    raw: SecretBytes | None = None
    """As bytes."""
    proxy: str | None = None
    """No secret by type."""

    @hookimpl
    def hfx_check(self, run: Any) -> list[Any]:
        raise RuntimeError(f"refused {self.token.get_secret_value() if self.token else None}")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test begin with a redactor that knows nothing."""
    monkeypatch.setattr(redact, "_hidden", {})


@pytest.mark.parametrize(
    "options",
    [
        {"token": "env:NAME"},
        {"more": {"a": "env:NAME", "b": "env:OTHER"}},
        {"listed": ["env:NAME"]},
        {"inner": {"key": "env:NAME"}},
        {"reference": "env:NAME"},
    ],
)
def test_a_secret_is_kept_and_written_as_its_name(options: dict[str, Any]) -> None:
    vault = Vault(**options)
    assert {key: vault.options()[key] for key in options} == options
    assert "env:NAME" in repr(vault)
    assert Vault(**vault.options()).options() == vault.options()


@pytest.mark.parametrize(
    "options",
    [
        {"token": PLAIN},
        {"token": SecretStr(PLAIN)},
        {"token": "env:"},
        {"more": {"a": PLAIN}},
        {"listed": [PLAIN]},
        {"inner": {"key": PLAIN}},
        {"reference": PLAIN},
        {"raw": PLAIN},
        {"proxy": f"http://me:{PLAIN}@proxy:3128"},
    ],
)
def test_a_secret_that_is_given_by_itself_is_refused_and_not_shown(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        Vault(**options)
    assert PLAIN not in str(caught.value)
    assert "env:NAME" in str(caught.value)


def test_a_secret_is_read_when_it_is_asked_for_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINE", raising=False)
    vault = Vault(token="env:MINE", reference="env:MINE")
    assert vault.token
    assert pickle.loads(pickle.dumps(vault)).options() == vault.options()  # noqa: S301 - our own bytes
    with pytest.raises(ConfigError, match="'MINE' is not set"):
        vault.token.get_secret_value()
    monkeypatch.setenv("MINE", PLAIN)
    assert vault.token.get_secret_value() == PLAIN == reveal(vault.reference or "")
    assert len(vault.token) == len(PLAIN)
    assert Vault(token="env:MINE").token == vault.token != Vault(token="env:YOURS").token


def test_run_yaml_is_taken_back_with_its_secrets(tmp_path: Path) -> None:
    given = Vault(token="env:MINE", more={"a": "env:YOURS"})
    text = to_yaml(resolve(fields={"data": "x"}, plugin_objects=[given], policy=FREE))
    path = tmp_path / "run.yaml"
    path.write_text(text)
    again = resolve(yaml_path=path, plugin_objects=[Vault()], policy=FREE)
    assert to_yaml(again) == text
    assert "token: env:MINE" in text


@pytest.mark.parametrize("text", [PLAIN, 12345678, [PLAIN], {"a": PLAIN}])
def test_no_message_shows_what_was_given_for_a_secret(text: Any) -> None:
    config = {"data": "x", "plugins": {"vault": {"token": text, "inner": {"key": text}}}}
    with pytest.raises(ConfigError) as caught:
        resolve(mapping=config, plugin_objects=[Vault()], policy=FREE)
    assert str(PLAIN) not in str(caught.value)
    assert "12345678" not in str(caught.value)


def test_the_error_of_a_plugin_that_tells_its_secret_holds_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", PLAIN)
    active = ActivePlugin("vault", Vault(token="env:MINE"), "acme", "1", DEFAULT)
    with pytest.raises(PluginError, match="refused env:MINE"):
        Manager([active]).check(run=SimpleNamespace(checking=False))  # type: ignore[arg-type]


# ── the redactor ─────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.text(min_size=6, max_size=40).filter(lambda text: len(text.strip()) >= 6))
def test_a_hidden_value_is_found_in_every_form_it_takes(secret: str) -> None:
    redact._hidden.clear()
    redact.hide(secret)
    forms = [
        secret,
        quote(secret, safe=""),
        json.dumps(secret),
        repr(secret),
        base64.b64encode(secret.encode()).decode(),
    ]
    for form in forms:
        assert secret not in redacted(f"<{form}>", forms=False)
        assert redacted(f"<{form}>", forms=False) != f"<{form}>"


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=8),
        lambda kids: st.lists(kids) | st.dictionaries(st.text(max_size=5), kids),
    )
)
def test_without_secrets_nothing_changes(value: Any) -> None:
    redact._hidden.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.environ", {})
        assert redacted(value, forms=False) == value


def test_values_and_keys_of_a_tree_are_looked_at() -> None:
    redact.hide(PLAIN, "env:MINE")
    assert redacted({"a": [PLAIN, {PLAIN: 1}], "b": 2}) == {"a": ["env:MINE", {"env:MINE": 1}], "b": 2}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("https://me:pw@host/rows", "https://***@host/rows"),
        ("GET /rows?X-Amz-Signature=abc&part=1", "GET /rows?X-Amz-Signature=***&part=1"),
        ("{'Authorization': 'Bearer abcdef'}", "{'Authorization': 'Bearer ***'}"),
        ("token hf_abcdefghijklmnopqrstuvwx is wrong", "token hf_*** is wrong"),
        ("s3://bucket/rows hf://datasets/who/what@main", "s3://bucket/rows hf://datasets/who/what@main"),
        ("at 12:30 mail me@host.example", "at 12:30 mail me@host.example"),
    ],
)
def test_what_has_the_form_of_a_secret_is_left_out_of_messages_and_not_of_data(text: str, left: str) -> None:
    assert redacted(text) == left
    assert redacted(text, forms=False) == text


def test_variables_for_tokens_and_keys_are_known_and_others_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ACME_API_KEY", "abcdefgh12")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false-false")
    monkeypatch.setenv("SIGNING_KEY", str(tmp_path))
    monkeypatch.setenv("SHORT_TOKEN", "main")
    monkeypatch.setenv("https_proxy", "http://me:proxy%40word@host:1")
    words = f"abcdefgh12 false-false {tmp_path} main proxy@word"
    assert redacted(words) == f"*** false-false {tmp_path} main ***"


def test_all_that_is_printed_and_logged_goes_through_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    redact.hide(PLAIN, "env:MINE")
    log = logging.FileHandler(tmp_path / "log.txt")
    logging.getLogger("acme").addHandler(log)
    redact.redact_logs()
    with redact.redacting():
        print(PLAIN, "https://me:pw@host/")
        print(PLAIN, "https://me:pw@host/", file=sys.stderr)
        sys.stdout.writelines([PLAIN, "\n"])
        try:
            raise ValueError(PLAIN)
        except ValueError:
            logging.getLogger("acme").exception("with %s", PLAIN)
    logging.getLogger("acme").removeHandler(log)
    log.close()
    out, err = capsys.readouterr()
    assert out == "env:MINE https://me:pw@host/\nenv:MINE\n"
    assert err.startswith("env:MINE https://***@host/\n")
    written = (tmp_path / "log.txt").read_text()
    assert written.startswith("with env:MINE\nTraceback")
    assert "ValueError: env:MINE" in written
