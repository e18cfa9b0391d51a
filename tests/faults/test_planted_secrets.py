"""Secrets of all kinds are planted, plugins tell them to everybody, and nothing that hfx says or writes holds one."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

import vault
from command_line import hfx
from range_server import RangeServer

NAMED = {  # what options name by `env:NAME`
    "VAULT_TOKEN": "planted-token-1a2b3c",
    "VAULT_MORE": "planted-more-\"quoted\"-\\-4d5e",
    "VAULT_INNER": "planted-inner-5f6a7b",
    "VAULT_REFERENCE": "planted-reference-line1\nplanted-reference-line2-0c1d",
    "MY_HEADER": "Bearer planted-header-2e3f4a",
    "MY_STORAGE": "planted-storage-5b6c7d",
    "MY_ADDRESS": "postgres://me:planted-address-8e9f@db.example/rows",
    "MY_LOGIN": "planted-login-0a1b2c",
    "MY_HUB": "hf_plantedHub3d4e5f6a7b8c9d0e1f2a3b4c",
}  # fmt: skip
FOUND = {  # what stands in the environment, and no option names
    "HF_TOKEN": "hf_plantedToken9d0e1f2a3b4c5d6e7f8a9b",
    "HUGGING_FACE_HUB_TOKEN": "hf_plantedOldToken0e1f2a3b4c5d6e7f8",
    "WANDB_API_KEY": "planted0wandb0key0a1b2c3d4e5f6a7b8c9d0e",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-1f2a",
    "AWS_ACCESS_KEY_ID": "PLANTEDAKIA4B5C6D7E",
    "AWS_SECRET_ACCESS_KEY": "planted/aws+secret/8f9a0b1c",
    "OPENAI_API_KEY": "sk-planted2d3e4f5a6b7c8d9e0f1a",
    "GITHUB_TOKEN": "ghp_planted1b2c3d4e5f6a7b8c9d0e1f2a",
    "http_proxy": "http://me:planted-proxy-3c4d@127.0.0.1:9",
    "DATABASE_URL": "postgres://me:planted-url-5e6f@127.0.0.1:9/rows",
}
GIVEN = {  # what is given by itself, and refused
    "an option of the type SecretStr": ["--plugin", "vault", "--vault.token", "planted-plain-1a2b"],
    "SecretStr in a mapping": ["--plugin", "vault", "--vault.more", "{a: planted-plain-3c4d}"],
    "SecretStr inside": ["--plugin", "vault", "--vault.inner", "{key: planted-plain-5e6f}"],
    "an option of the type Secret": ["--plugin", "hub", "--hub.token", "planted-plain-7a8b"],
    "a header": ["--plugin", "stream", "--stream.headers", "{Authorization: planted-plain-9c0d}"],
    "an argument of a database": ["--plugin", "sql", "--sql.connect", "{password: planted-plain-1e2f}"],
    "the address of a database": ["--plugin", "sql", "--sql.database", "postgres://me:planted-plain-3a4b@host/db"],
    "what ODBC is told": ["--plugin", "sql", "--sql.database", "DRIVER=x;UID=me;PWD=planted-plain-2b3c"],
    "an option of a file system": ["--plugin", "stream", "--stream.storage", "{pwd: planted-plain-4d5e}"],
    "a connection string": ["--plugin", "stream", "--stream.storage", "{to: AccountKey=planted-plain-6f7a}"],
    "the address of data": ["--data", "https://me:planted-plain-5c6d@host/rows.jsonl"],
    "the address of a model": ["--model", "https://me:planted-plain-9a0b@host/model"],
    "any option that holds an address": ["--plugin", "vault", "--vault.proxy", "http://me:planted-plain-7e8f@proxy:3"],
}
CONFIG = """
steps: 2
save_every: 1
batch_size: 2
seq_length: 16
eval_share: 0
plugins:
  fp32:
  no:progress:
  tensorboard:
  trackio: {project: planted}
  bpe: {vocab_size: 300}
  scratch: {hidden_size: 8, layers: 1, heads: 2}
  vault:
    token: env:VAULT_TOKEN
    more: {a: env:VAULT_MORE}
    inner: {key: env:VAULT_INNER}
    reference: env:VAULT_REFERENCE
"""
SOURCES = """
  stream: {headers: {Authorization: env:MY_HEADER}, storage: {token: env:MY_STORAGE}, retry_minutes: 0}
"""


@dataclass
class Said:
    """All that some commands said and wrote: bytes by where they were found."""

    bytes: dict[str, bytes] = field(default_factory=dict)

    def of(self, done: subprocess.CompletedProcess[str], name: str) -> subprocess.CompletedProcess[str]:
        self.bytes[f"stdout of {name}"] = done.stdout.encode()
        self.bytes[f"stderr of {name}"] = done.stderr.encode()
        return done

    def under(self, folder: Path) -> None:
        for path in folder.rglob("*"):
            self.bytes[f"the name of {path}"] = str(path).encode()
            if path.is_file():
                self.bytes[str(path)] = path.read_bytes()

    def holding(self, secret: str) -> list[str]:
        parts = [line for line in secret.splitlines() if line]
        forms = {form.encode() for part in parts for form in _forms(part)}
        return [where for where, content in self.bytes.items() if any(form in content for form in forms)]


def _forms(secret: str) -> Iterator[str]:
    yield from (secret, quote(secret, safe=""), json.dumps(secret)[1:-1], repr(secret)[1:-1])
    yield base64.b64encode(secret.encode()).decode()


def _hidden(value: str) -> str:
    """Return what must not be found of a variable: the password of an address, the word behind `Bearer`."""
    if "://" in value:
        return value.partition("://")[2].partition(":")[2].partition("@")[0]
    return value.removeprefix("Bearer ")


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Said:
    """Return what hfx said and wrote, with the secrets in its environment, in commands that go right and wrong."""
    folder, said = tmp_path_factory.mktemp("planted"), Said()
    work = folder / "work"
    work.mkdir()
    path = vault.install(folder / "site")
    texts = folder / "texts.jsonl"
    texts.write_text("".join(f'{{"text": "some words, number {n % 9}"}}\n' for n in range(12)))
    (folder / "config.yaml").write_text(f"data: {texts}\noutput: run\n{CONFIG}")
    (folder / "sources.yaml").write_text(f"data: {texts}\n{CONFIG}{SOURCES}")
    (folder / "plain.yaml").write_text(f"data: {texts}\nplugins: {{vault: {{token: planted-in-yaml-6a7b}}}}\n")
    environ = {**NAMED, **FOUND, "HFX_CACHE": str(work / "cache"), "OMP_NUM_THREADS": "1", "no_proxy": "127.0.0.1"}

    def call(name: str, *words: str, code: int = 0, **more: str) -> None:
        done = said.of(hfx(*words, path=path, cwd=work, **environ, **more), name)
        assert done.returncode == code, (name, done.stderr)

    config, sources = str(folder / "config.yaml"), str(folder / "sources.yaml")
    call("train", "train", config, "--vault.fail", "saved 2", code=1, HFX_TRACEBACK="1")
    call("show", "config", "show", sources, "--origin")
    call("dry run", "train", sources, "--dry-run")
    call("plugin", "plugins", "show", "vault")
    call("plugins", "plugins")
    call("in YAML", "train", str(folder / "plain.yaml"), "--dry-run", code=2, HFX_TRACEBACK="1")
    server = RangeServer(folder)
    server.manners.needs = ("Authorization", "Bearer another")
    stream = f"--data={server.url}/texts.jsonl"
    call("stream", "data", "stats", sources, stream, code=1, HFX_TRACEBACK="1")
    server.stop()
    ordered = ["--sql.order-by", "id", "--sql.retry-minutes", "0"]
    for name, given in (
        ("address", ["--sql.database", "env:MY_ADDRESS"]),
        ("login", ["--sql.connect", "{password: env:MY_LOGIN}"]),
    ):
        words = ["data", "stats", "--plugin", "sql", "--sql.module", "toydb", "--sql.table", "rows", *given, *ordered]
        call(f"sql {name}", *words, code=1, HFX_TRACEBACK="1")
    hub = [
        "data",
        "stats",
        "--plugin",
        "hub",
        "--data",
        "who/what",
        "--hub.token",
        "env:MY_HUB",
        "--hub.retry-minutes",
        "0",
    ]
    call("hub", *hub, code=1, HFX_TRACEBACK="1", HF_ENDPOINT="http://127.0.0.1:9")
    for name, words in GIVEN.items():
        call(name, "train", "--dry-run", *words, code=2, HFX_TRACEBACK="1")
    said.under(work)
    return said


def test_there_are_twenty_five_of_them() -> None:
    assert len(NAMED) + len(FOUND) + len(GIVEN) >= 25


@pytest.mark.parametrize("name", [*NAMED, *FOUND])
def test_a_secret_of_the_environment_is_nowhere(said: Said, name: str) -> None:
    assert said.holding(_hidden((NAMED | FOUND)[name])) == []


@pytest.mark.parametrize("name", GIVEN)
def test_a_secret_that_is_given_by_itself_is_refused_and_nowhere(said: Said, name: str) -> None:
    planted = re.findall(r"planted-plain-\w+", " ".join(GIVEN[name]))[0]
    assert said.holding(planted) == []
    assert b"hfx: " in said.bytes[f"stderr of {name}"]


def test_a_secret_in_a_file_or_an_address_that_an_error_prints_is_nowhere(said: Said) -> None:
    assert said.holding("planted-in-yaml-6a7b") == []
    assert said.holding("planted-query-f00dface") == []


def test_what_the_plugin_told_is_there_with_the_names_of_the_secrets_in_their_place(said: Said) -> None:
    out, err = said.bytes["stdout of train"], said.bytes["stderr of train"]
    assert b"step_end 2" in out
    assert b"env:VAULT_TOKEN" in out
    assert err.count(b"env:VAULT_TOKEN") >= 4
    assert b"Traceback" in err
    assert b"RuntimeError: saved 2: " in err
    assert b"hfx: plugin 'vault'" in err
    assert b"env:VAULT_MORE" in err
    written = {where: content for where, content in said.bytes.items() if not where.startswith("the name of")}
    state = next(content for where, content in written.items() if where.endswith("/state.json"))
    assert b"env:VAULT_TOKEN" in state
    run = next(content for where, content in written.items() if where.endswith("/run.yaml"))
    assert b"token: env:VAULT_TOKEN" in run
    assert b"env:MY_HEADER" in said.bytes["stdout of show"]
    assert any("events.out.tfevents" in where for where in said.bytes)


@pytest.mark.slow
def test_several_processes_and_their_logs_hold_none_either(tmp_path: Path) -> None:
    path, work, said = vault.install(tmp_path / "site"), tmp_path / "work", Said()
    work.mkdir()
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(f'{{"text": "some words, number {n % 9}"}}\n' for n in range(12)))
    (tmp_path / "config.yaml").write_text(f"data: {texts}\noutput: run\nnproc: 2\nnum_proc: 2\n{CONFIG}")
    environ = {**NAMED, **FOUND, "HFX_CACHE": str(work / "cache"), "HFX_TRACEBACK": "1", "no_proxy": "127.0.0.1"}
    words = ["train", str(tmp_path / "config.yaml"), "--vault.fail", "saved 2", "--local.restarts", "0"]
    done = said.of(hfx(*words, path=path, cwd=work, **environ), "train")
    assert done.returncode == 1, done.stderr
    said.under(work)
    assert b"env:VAULT_TOKEN" in said.bytes[str(work / "run" / "logs" / "rank-1.log")]
    assert [name for name, value in (NAMED | FOUND).items() if said.holding(_hidden(value))] == []
