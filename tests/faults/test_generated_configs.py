"""Thousands of configs as nobody should write them: each is taken, or refused in a line or two, or one a reason."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from command_line import hfx
from hfx.cli.boundary import guarded
from random_words import Words


def _assert_told_in_a_line(words: list[str], text: str | None, code: int, stderr: str) -> None:
    about = f"{words}\n{text!r}\n{stderr[:3000]}"
    assert code in (0, 1, 2), about
    assert "Traceback" not in stderr, about
    assert "this is a bug" not in stderr, about
    lines = [line for line in stderr.splitlines() if not line.startswith("hfx: warning: ")]
    if code:
        assert lines, about
        assert lines[0].startswith("hfx: "), about
        # Plugins that cannot work together are all named, a line each.
        assert len(lines) <= 2 or all(line.startswith("hfx: ") for line in lines), about
        assert len(stderr) < 5000, about


def _try(seeds: range, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[int]:
    """Give each config to the command line in this process, and return the exit codes."""
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith("HFX_")]:
        monkeypatch.delenv(name)
    codes = []
    for seed in seeds:
        words, text = Words(seed).command()
        config = folder / "config.yaml"
        if text is not None:
            config.write_bytes(text.encode(errors="surrogatepass"))
        code = guarded([str(config) if word == "CONFIG" else word for word in words])
        _assert_told_in_a_line([f"seed {seed}", *words], text, code, capsys.readouterr().err)
        codes.append(code)
    assert [path.name for path in folder.iterdir() if path.name != "config.yaml"] == []
    return codes


def test_two_hundred_generated_configs_are_taken_or_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    codes = _try(range(200), tmp_path, monkeypatch, capsys)
    assert min(codes.count(0), codes.count(2)) >= 5, "some are right, and some are wrong"
    assert time.monotonic() - began < 60


@pytest.mark.slow
def test_ten_thousand_generated_configs_are_taken_or_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _try(range(1_000, 11_000), tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("seed", range(500, 510))
def test_a_process_of_its_own_tells_the_same(seed: int, tmp_path: Path) -> None:
    words, text = Words(seed).command()
    config = tmp_path / "config.yaml"
    config.write_bytes((text or "").encode(errors="surrogatepass"))
    done = hfx(*(str(config) if word == "CONFIG" else word for word in words), cwd=tmp_path)
    _assert_told_in_a_line(words, text, done.returncode, done.stderr)
