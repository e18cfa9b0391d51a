"""A user's error is told in one or two lines, at once, with what to do."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from command_line import MODULE, SCRIPT, environment, hfx, imported_by, shortest
from toy_packages import OPTIMIZER, toy_package

YAML = "steps: 3\nplugins:\n  lion:\n    lrr: 1\n"
WRONG = [
    (["train", "--plugin", "lion", "--plugin", "adafactor", "--dry-run"], ["'lion'", "'adafactor'", "drop one"]),
    (["train", "--plugin", "lino"], ["did you mean 'lion'?"]),
    (["train", "--plugin", "lion", "--lion.lrr", "1"], ["did you mean '--lion.lr'?"]),
    (["train", "wrong.yaml"], ["wrong.yaml:4", "plugins.lion.lrr", "did you mean 'lr'?"]),
    (["train", "--lion.lr", "1"], ["not active", "--plugin lion"]),
    (["train", "--batchsize", "8"], ["did you mean '--batch-size'?"]),
    (["train", "--lr", "1e-4"], ["'--adamw.lr'"]),
    (["train", "--plugin", "lion", "--lion.lr"], ["'--lion.lr' needs a value"]),
    (["train", "--plugin", "lion", "--lion.lr", "-1"], ["'--lion.lr'", "greater than 0"]),
    (["train", "--seed", "x"], ["'--seed'", "integer"]),
    (["train", "--dry-run=yes"], ["takes no value"]),
    (["train", "missing.yaml"], ["missing.yaml"]),
    (["train", "wrong.yaml", "more"], ["'more' is left over"]),
    (["tran"], ["did you mean 'train'?"]),
    (["plugins", "shwo"], ["did you mean 'show'?"]),
    (["plugins", "show", "lino"], ["did you mean 'lion'?"]),
    (["--verson"], ["did you mean '--version'?"]),
    (["completion", "tcsh"], ["'tcsh'"]),
    (["generate", "runs/none", "--prompt", "a"], ["no such path 'runs/none'"]),
    (["generate", ".", "--prompt", "a"], ["neither a run nor a model"]),
    (["generate", "runs/none"], ["either '--prompt TEXT' or '--prompt-file FILE'"]),
    (["config", "validate", "wrong.yaml"], ["did you mean 'lr'?"]),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "wrong.yaml").write_text(YAML)
    return tmp_path


@pytest.mark.parametrize(("arguments", "expected"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_it_exits_with_2_and_says_what_to_do(arguments: list[str], expected: list[str], folder: Path) -> None:
    done = hfx(*arguments, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("hfx: ")
    assert 1 <= len(done.stderr.splitlines()) <= 2
    assert all(part in done.stderr for part in expected), done.stderr


@pytest.mark.parametrize("arguments", [words for words, _ in WRONG[:4]], ids=" ".join)
def test_it_is_told_at_once_and_without_torch(
    arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert shortest([*SCRIPT, *arguments], times=3) < 1.5
    assert {"torch", "transformers", "datasets"}.isdisjoint(imported_by(*arguments))


@pytest.mark.parametrize("way", ["option", "variable"])
def test_the_traceback_is_shown_when_asked_for(way: str) -> None:
    asked = hfx("train", "--plugin", "lino", "--traceback") if way == "option" else None
    done = asked or hfx("train", "--plugin", "lino", HFX_TRACEBACK="1")
    assert done.returncode == 2
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("hfx: ")


def test_a_plugin_that_fails_to_import_is_named_with_its_package(tmp_path: Path) -> None:
    toy_package(tmp_path, "hfx-broken", {"broken": f"raise RuntimeError('boom')\n{OPTIMIZER}"})
    done = hfx("train", "--plugin", "broken", "--dry-run", path=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert all(part in done.stderr for part in ("'broken'", "hfx-broken", "boom"))


def test_what_no_error_class_names_is_called_a_bug_with_its_place(tmp_path: Path) -> None:
    # `sitecustomize` runs before hfx and breaks what discovery relies on: a failure that hfx cannot know of.
    (tmp_path / "sitecustomize.py").write_text(
        "from importlib import metadata\n\ndef broken(**_):\n    raise ZeroDivisionError('nobody expects it')\n\n"
        "metadata.entry_points = broken\n"
    )
    done = hfx("plugins", path=tmp_path)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "this is a bug: ZeroDivisionError: nobody expects it" in line
    assert "sitecustomize.py:4" in line
    assert "--traceback" in line


def test_a_pipe_that_closes_early_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*MODULE, "plugins"], env=environment(), stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert done.returncode == 141
    assert done.stderr == b""


def test_an_interrupt_outside_a_run_exits_with_130(tmp_path: Path) -> None:
    toy_package(tmp_path, "hfx-tired", {"tired": f"raise KeyboardInterrupt\n{OPTIMIZER}"})
    done = hfx("train", "--plugin", "tired", "--dry-run", path=tmp_path)
    assert done.returncode == 130
    assert done.stderr == "hfx: interrupted\n"


HELPED = ["train", "config", "config show", "config schema", "config validate", "plugins", "plugins show"]
HELPED += ["plugins check", "plugins new", "generate", "completion"]


@pytest.mark.parametrize("command", ["", *HELPED])
def test_every_help_has_an_example(command: str) -> None:
    done = hfx(*command.split(), "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout
    assert f"hfx {command}" in done.stdout.partition("Example")[2]


# ── output that cannot be written as it is ───────────────────────────────────────────────────────────────────────────


def test_a_closed_output_is_no_failure() -> None:
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        done = subprocess.run(f"{' '.join(MODULE)} plugins {closed}", shell=True, env=environment(), timeout=60)
        assert done.returncode == 0, closed


def test_a_full_disk_behind_the_output_is_said_in_a_line() -> None:
    command = f"{' '.join(MODULE)} plugins > /dev/full"
    done = subprocess.run(command, shell=True, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("hfx: what is printed, or a file, cannot be written: No space left on device; free")
    assert len(done.stderr.splitlines()) == 1


def test_what_the_terminal_has_no_signs_for_is_escaped_and_no_failure(folder: Path) -> None:
    (folder / "日本.yaml").write_text("steps: 3\noutput: 日本\n")
    done = hfx("config", "show", "日本.yaml", cwd=folder, PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stderr
    assert "output: \\u65e5\\u672c" in done.stdout


def test_text_of_others_does_not_steer_the_terminal(folder: Path) -> None:
    name = "a\x1b]0;owned\x07\x1b[2J\u202eb\x9bc"
    (folder / "rows.jsonl").write_text(json.dumps({name: name, "ａ　b": "größe"}) + "\n")
    words = ["--data", "rows.jsonl", "--bpe.vocab-size", "270", "--eval-share", "0"]
    shown = hfx("data", "inspect", *words, cwd=folder, HFX_CACHE="cache")
    assert shown.returncode == 0, shown.stderr
    refused = hfx("data", "stats", *words, "--files.columns", "[nope]", cwd=folder, HFX_CACHE="cache")
    assert refused.returncode != 0
    for said in (shown.stdout, refused.stderr):
        assert "\\x1b]0;owned\\x07\\x1b[2J\\u202eb\\x9bc" in said
        assert not {"\x1b", "\x07", "\u202e", "\x9b"} & set(said)
        assert "ａ　b" in said


def test_a_place_that_has_no_name_in_utf_8_is_refused_before_anything_is_done(folder: Path) -> None:
    name = os.fsdecode(b"odd\xff")
    done = hfx("train", "--output", name, "--steps", "1", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("hfx: 'odd\\udcff' is no name in UTF-8")
    assert not (folder / name).exists()
