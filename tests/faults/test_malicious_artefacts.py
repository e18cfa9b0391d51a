"""Files of somebody who means harm: nothing in them runs, and the command ends soon, in one line."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from artefacts import TRAIN, Artefact, Place
from artefacts_of_data import DATA, YAML
from artefacts_of_models import MODELS
from artefacts_of_runs import RUNS
from command_line import environment
from hfx.cli.boundary import guarded

ALL = [*MODELS, *DATA, *YAML, *RUNS]
SECONDS, BYTES = 60, 6 << 30
WORDS = [f"word{n}" for n in range(40)]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a good tiny model and its tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("good") / "model"
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=64, max_position_embeddings=32, **sizes)).save_pretrained(folder)
    vocabulary = {word: at for at, word in enumerate(["<pad>", "<unk>", "<end>", "some", "words", "number", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of one step with a tokenizer of its own and rows that a step chose from; its cache is beside it."""
    folder = tmp_path_factory.mktemp("run")
    texts = folder / "texts.jsonl"
    texts.write_text("".join(f'{{"text": "some words, number {n % 9}"}}\n' for n in range(12)))
    words = ["train", "--data", str(texts), "--output", str(folder / "run"), *TRAIN, "--plugin", "exact_dedup"]
    sizes = ["--scratch.hidden-size", "8", "--scratch.layers", "1", "--scratch.heads", "2", "--bpe.vocab-size", "300"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HFX_CACHE", str(folder / "cache"))
        assert guarded([*words, *sizes]) == 0
    return folder / "run"


@pytest.fixture
def place(tmp_path: Path, model: Path, run: Path) -> Place:
    (tmp_path / "here").mkdir()
    return Place(tmp_path / "here", model, tmp_path / "CANARY", run, {"HFX_CACHE": str(tmp_path / "cache")})


def _assert_ended_well(artefact: Artefact, place: Place, code: int, stdout: str, stderr: str) -> None:
    assert not place.canary.exists(), "the payload ran"
    assert not list(place.folder.parent.rglob("CANARY")), "something was written"
    assert "Traceback" not in stdout + stderr
    assert "this is a bug" not in stderr
    assert code in artefact.codes, stderr
    errors = [line for line in stderr.splitlines() if line.startswith("hfx: ") and "warning" not in line]
    if code:
        assert errors, stderr
        assert len(errors[-1]) < 1000
    assert artefact.says in stderr


def test_there_are_forty_of_them() -> None:
    assert len({artefact.sentence for artefact in ALL}) == len(ALL) >= 40


@pytest.mark.parametrize("artefact", [one for one in ALL if not one.alone], ids=str)
def test_nothing_runs_and_the_command_ends_in_a_line(
    artefact: Artefact, place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = artefact.make(place)
    for name in [name for name in os.environ if name.startswith("HFX_")]:
        monkeypatch.delenv(name)
    for name, value in (
        place.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(place.folder / "datasets")}
    ).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(place.folder)
    monkeypatch.setattr(logging, "raiseExceptions", False)  # libraries' handlers hold the streams of earlier tests
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    began = time.monotonic()
    code = guarded(words)
    said = capsys.readouterr()
    _assert_ended_well(artefact, place, code, said.out, said.err)
    assert time.monotonic() - began < SECONDS


def _in_little_memory(artefact: Artefact, place: Place) -> None:
    words = artefact.make(place)
    datasets = str(place.folder / "datasets")
    environ = environment(**place.environ, HF_HUB_OFFLINE="1", HF_DATASETS_CACHE=datasets, OMP_NUM_THREADS="1")
    done = subprocess.run(
        [sys.executable, "-m", "hfx", *words],
        env=environ, cwd=place.folder, capture_output=True, text=True, timeout=SECONDS,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES)),
    )  # fmt: skip
    _assert_ended_well(artefact, place, done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("artefact", [one for one in ALL if one.alone and one in DATA], ids=str)
def test_what_unpacks_to_more_than_memory_holds_ends_in_a_line(artefact: Artefact, place: Place) -> None:
    _in_little_memory(artefact, place)


@pytest.mark.slow
@pytest.mark.parametrize("artefact", ALL, ids=str)
def test_nothing_runs_in_a_process_of_its_own_with_little_memory_and_time(artefact: Artefact, place: Place) -> None:
    _in_little_memory(artefact, place)
