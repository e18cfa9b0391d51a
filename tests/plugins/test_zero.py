"""DeepSpeed's ZeRO: what it refuses by name, and that a killed run ends with the same bits."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from command_line import environment, hfx
from hfx.api import problems
from ranks import assert_same_run, folder_of_rows, trained
from resolving import go

NEEDS_DEEPSPEED = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")


@pytest.mark.parametrize(
    ("name", "instead"),
    [("adafactor", "ddp"), ("galore", "ddp"), ("adamw_8bit", "ddp"), ("muon", "fsdp"), ("ema", "fsdp")],
)
def test_what_needs_whole_parameters_is_refused_by_name(name: str, instead: str) -> None:
    told = [problem.message for problem in problems(go("zero", name, "fp32")) if problem.fatal]
    assert any(line.startswith(f"'{name}' ") and f"use '--plugin {instead}'" in line for line in told), told


def test_pure_bf16_is_refused() -> None:
    options = [("bf16.pure", "true")]
    assert any("leave 'bf16.pure' out" in problem.message for problem in problems(go("zero", "bf16", options=options)))


def test_parameters_are_offloaded_at_stage_3_alone() -> None:
    options = [("zero.offload_parameters", "true")]
    assert any("needs stage 3, and this is 2" in p.message for p in problems(go("zero", options=options)))


@NEEDS_DEEPSPEED
@pytest.mark.parametrize("stage", ["1", "2", "3"])
def test_a_killed_run_ends_with_the_same_bits(stage: str, tmp_path: Path) -> None:
    folder = folder_of_rows(tmp_path)
    words = ("--plugin", "zero", "--zero.stage", stage)
    trained(folder, "whole", *words)
    trained(folder, "killed", *words, "--plugin", "harm")
    assert_same_run(folder / "whole", folder / "killed")


@NEEDS_DEEPSPEED
@pytest.mark.parametrize("inherited", [False, True], ids=["", "from a run in the process that starts it"])
def test_a_build_that_was_killed_is_built_anew_and_not_waited_for(inherited: bool, tmp_path: Path) -> None:
    folder = folder_of_rows(tmp_path)
    words = ("--plugin", "zero", "--steps", "1")
    trained(folder, "first", *words, XDG_CACHE_HOME=str(tmp_path / "user"))
    [built] = (tmp_path / "user").rglob("*.so")
    built.unlink()
    (built.parent / "lock").touch()  # as torch leaves it
    known = {"TORCH_EXTENSIONS_DIR": str(built.parent.parent)} if inherited else {}
    trained(folder, "second", *words, XDG_CACHE_HOME=str(tmp_path / "user"), **known)
    assert built.exists()
    assert not (built.parent / "lock").exists()


@NEEDS_DEEPSPEED
@pytest.mark.parametrize("stage", ["2", "3"])
def test_weights_of_another_shape_are_refused_by_name(stage: str, tmp_path: Path) -> None:
    folder = folder_of_rows(tmp_path)
    trained(folder, "run", "--plugin", "zero", "--zero.stage", stage, "--steps", "1")
    again = ("train", "--resume", "run", "--steps", "2", "--scratch.hidden-size", "64")
    done = hfx(*again, cwd=folder, HFX_CACHE=str(folder / "cache"), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1, done.stderr
    assert "has the shape (280, 64), and (280, 32) in the checkpoint; resume with the model it was" in done.stderr


@NEEDS_DEEPSPEED
def test_a_run_in_this_process_leaves_nothing_by_which_others_take_it_for_one_of_several(tmp_path: Path) -> None:
    folder = folder_of_rows(tmp_path)
    code = (
        "import os, hfx\n"
        "plugins = {'zero': {}, 'fp32': {}, 'bpe': {'vocab_size': 280},\n"
        "           'scratch': {'hidden_size': 32, 'layers': 1, 'heads': 2}}\n"
        "hfx.train(dict(data='rows.jsonl', steps=1, seq_length=48, batch_size=2, output='run', plugins=plugins))\n"
        "print(sorted(name for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE') if name in os.environ))\n"
    )
    env = environment(HFX_CACHE=str(folder / "cache"), CUDA_VISIBLE_DEVICES="")
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
