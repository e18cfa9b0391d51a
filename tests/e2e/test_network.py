"""A run whose model and data are local opens no connection, and the suite itself reaches nothing but loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

needs_unshare = pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare of util-linux")


@pytest.mark.skipif(os.environ.get("HFX_TESTS_OFFLINE") != "yes", reason="run by itself, not through 'make'")
def test_the_suite_reaches_nothing_but_loopback() -> None:
    code = "import socket; socket.create_connection(('1.1.1.1', 53), timeout=5)"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=60)
    assert "Network is unreachable" in done.stderr
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()


@needs_unshare
def test_a_run_with_local_data_ends_in_a_namespace_without_any_network(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"row {number} of a file on this disk"}) for number in range(60)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    train = [sys.executable, "-m", "hfx", "train", "--data", "rows.jsonl", "--output", "run", "--steps", "2"]
    small = ["--bpe.vocab-size", "260", "--scratch.hidden-size", "32", "--scratch.layers", "1", "--seq-length", "32"]
    environment = os.environ | {"HFX_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        ["unshare", "--map-root-user", "--net", *train, *small], cwd=tmp_path, env=environment, text=True,
        capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_a_run_with_local_data_never_connects_a_socket(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a row of a file on this disk"}\n' * 60)
    script = """
import socket
def refuse(*arguments):
    raise AssertionError(f"a connection was opened: {arguments[1:]}")
socket.socket.connect = socket.socket.connect_ex = refuse
import hfx
from hfx_plugins.models.scratch import Scratch
from hfx_plugins.tokenizers.bpe import Bpe
hfx.train(data="rows.jsonl", output="run", steps=2, seq_length=32,
          plugins=[Bpe(vocab_size=260), Scratch(hidden_size=32, layers=1)])
"""
    environment = os.environ | {"HFX_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
