"""`hfx export` writes the model of any checkpoint, to the bit what the run itself wrote, in one process."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from command_line import MODULE, environment, hfx
from toy_packages import toy_package

SMALL = (
    "--seq-length",
    "32",
    "--batch-size",
    "8",
    "--plugin",
    "fp32",
    "--steps",
    "6",
    "--save-every",
    "2",
    "--keep",
    "9",
)
NEW = ("--bpe.vocab-size", "270", "--scratch.hidden-size", "16", "--scratch.layers", "1", "--scratch.heads", "2")
OLD = ("--model", "runs/done/model")
WORDS = ["the", "order", "of", "samples", "is", "pure", "and", "a", "run", "that", "was", "killed", "goes", "on"]


def write_rows(folder: Path) -> None:
    rng = random.Random(0)
    rows = [{"text": " ".join(rng.choices(WORDS, k=rng.choice([3, 20]))), "label": number % 3} for number in range(90)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def train(folder: Path, name: str, *words: str) -> Path:
    """Train a small run; return its folder, relative to the folder it was started in."""
    words = (*SMALL, *words, "--data", "rows.jsonl", "--output", f"runs/{name}")
    done = hfx("train", *words, cwd=folder, HFX_CACHE="cache", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    return Path("runs", name)


def export(folder: Path, *words: str, code: int = 0, **environ: str) -> str:
    """Export in a folder; return what was said on stdout, or on stderr where it has to fail."""
    given = {"HFX_CACHE": "cache", "CUDA_VISIBLE_DEVICES": ""} | environ
    done = hfx("export", *map(str, words), cwd=folder, **given)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if code else done.stdout + done.stderr


def same_files(one: Path, other: Path) -> bool:
    names = sorted(file.name for file in one.iterdir())
    assert names == sorted(file.name for file in other.iterdir())
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows, a cache, and the run `runs/done` with checkpoints at the steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("export")
    write_rows(folder)
    train(folder, "done", *NEW)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it for a test of its own."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_the_newest_checkpoint_is_exported_to_the_bit_without_the_data(folder: Path) -> None:
    (folder / "rows.jsonl").unlink()
    said = export(folder, "runs/done", "--output", "models/mine")
    assert "step-00000006 (step 6 of 6)" in said
    assert said.endswith("model: models/mine\n")
    assert same_files(folder / "models/mine", folder / "runs/done/model")
    assert [path.name for path in (folder / "models").iterdir()] == ["mine"]


def test_an_earlier_step_takes_the_place_of_the_runs_own_export(folder: Path) -> None:
    run = folder / "runs/done"
    last = load_file(run / "model/model.safetensors")
    before = sorted(path.name for path in run.iterdir())
    assert "step 2 of 6" in export(folder, "runs/done", "--checkpoint", "2")
    [shard] = (run / "checkpoints/step-00000002").glob("*.safetensors")
    saved = {name: tensor for name, tensor in load_file(shard).items() if name.startswith("model.")}
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    own = dict(model.named_parameters())
    assert own.keys() == {name.removeprefix("model.") for name in saved}
    assert all(torch.equal(own[name.removeprefix("model.")], tensor) for name, tensor in saved.items())
    assert any(not torch.equal(own[name], tensor) for name, tensor in last.items())
    assert sorted(path.name for path in run.iterdir()) == before


@pytest.mark.slow
def test_a_checkpoint_may_be_named_by_its_folder(folder: Path) -> None:
    (folder / "kept").mkdir()
    shutil.move(folder / "runs/done/checkpoints/step-00000006", folder / "kept/step-00000006")
    assert "step 6 of 6" in export(folder, "runs/done", "--checkpoint", "kept/step-00000006/", "--output", "out")
    assert same_files(folder / "out", folder / "runs/done/model")


@pytest.mark.parametrize(
    "words",
    [
        (*NEW, "--plugin", "lora", "--plugin", "ema", "--ema.save", "both"),
        pytest.param((*NEW, "--plugin", "schedule_free", "--plugin", "constant"), marks=pytest.mark.slow),
        pytest.param((*NEW, "--plugin", "no:fp32", "--plugin", "bf16", "--bf16.pure", "true"), marks=pytest.mark.slow),
        pytest.param((*NEW, "--plugin", "ddp", "--nproc", "2"), marks=pytest.mark.slow),
        pytest.param((*NEW, "--plugin", "fsdp", "--nproc", "2"), marks=pytest.mark.slow),
        pytest.param((*NEW, "--plugin", "zero", "--nproc", "2"), marks=[pytest.mark.slow, pytest.mark.drives]),
        pytest.param((*OLD, "--plugin", "lora", "--lora.save", "adapters"), marks=pytest.mark.slow),
        pytest.param((*OLD, "--plugin", "classification"), marks=pytest.mark.slow),
    ],
    ids=["lora and ema", "schedule_free", "bf16", "ddp", "fsdp", "zero", "adapters", "classification"],
)  # fmt: skip
def test_what_shapes_a_model_or_shards_it_takes_part(words: tuple[str, ...], folder: Path) -> None:
    run = train(folder, "shaped", *words)
    (folder / "rows.jsonl").unlink()
    export(folder, str(run), "--output", "exported/model")
    written = sorted(path.name for path in (folder / "exported").iterdir())
    assert written == sorted(path.name for path in (folder / run).glob("model*"))
    for name in written:
        assert same_files(folder / "exported" / name, folder / run / name)


def test_what_a_run_exports_is_not_loaded_with_what_it_exported_before(folder: Path) -> None:
    shutil.copytree(folder / "runs/done/model", folder / "base")
    given = ("--model", "base", "--plugin", "lora", "--lora.save", "adapters")
    run = folder / train(folder, "adapted", *given)
    (run / "model" / "README.md").write_text("mine")
    shutil.copytree(run / "model", run / "model-before")
    assert (run / "model" / "adapter_config.json").exists()
    words = ("--resume", str(run), "--steps", "8", "--lora.save", "merged")
    done = hfx("train", *words, cwd=folder, HFX_CACHE="cache", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    assert not list((run / "model").glob("adapter*"))
    assert (run / "model" / "model.safetensors").exists()
    assert (run / "model" / "README.md").read_text() == "mine"
    assert (run / "model-before" / "adapter_config.json").exists()


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_exported(folder: Path) -> None:
    [shard] = (folder / "runs/done/checkpoints/step-00000006").glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    said = export(folder, "runs/done", "--checkpoint", "6", code=1)
    assert shard.name in said
    assert "damaged" in said
    assert "the steps 2, 4" in said
    said = export(folder, "runs/done", "--output", "model")
    assert shard.name in said
    assert "step-00000004 (step 4 of 6)" in said


def test_a_killed_run_is_exported(folder: Path) -> None:
    with training_on(folder) as process:
        process.send_signal(signal.SIGKILL)
    export(folder, "runs/long")
    assert load_file(folder / "runs/long/model/model.safetensors")


@pytest.mark.slow
def test_a_run_that_trains_is_exported_elsewhere_and_to_its_own_place_once_it_ended(folder: Path) -> None:
    with training_on(folder):
        assert "of 1000000" in export(folder, "runs/long", "--output", "first")
        assert "another process is training" in export(folder, "runs/long", code=1)
        assert not (folder / "runs/long/model").exists()
    export(folder, "runs/long")
    done = hfx("generate", "runs/long", "--prompt", "the", "--max-new-tokens", "2", cwd=folder)
    assert done.returncode == 0, done.stderr


@contextmanager
def training_on(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Let a run go on in `runs/long`; yield once it has a checkpoint, and kill it in the end."""
    words = ["--data", "rows.jsonl", *SMALL, *NEW, "--steps", "1000000", "--keep", "1000000", "--save-every", "50"]
    command = [*MODULE, "train", *words, "--output", "runs/long"]
    given = environment(HFX_CACHE="cache", CUDA_VISIBLE_DEVICES="")
    process = subprocess.Popen(command, cwd=folder, env=given, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while not any((folder / "runs/long/checkpoints").glob("step-*/MANIFEST.json")):
            assert process.poll() is None, "the run ended"
            assert time.monotonic() < until, "no checkpoint came"
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_missing_run_is_answered_with_the_nearest(made: Path) -> None:
    said = export(made, "runs/don", code=2)
    assert said == "hfx: no such run 'runs/don'; did you mean 'runs/done'?\n"
    assert "holds no run" in export(made, "runs/done/model", code=2)


def test_a_misspelt_step_is_answered_with_the_nearest(made: Path) -> None:
    for wanted, near in (("5", "4"), ("500", "6"), ("step-00000003", "2"), ("4.", "4")):
        said = export(made, "runs/done", "--checkpoint", wanted, code=2)
        assert f"no checkpoint '{wanted}'; did you mean '{near}'?" in said
        assert "the steps 2, 4, 6" in said
    assert "has no checkpoint 'models/mine'" in export(made, "runs/done", "--checkpoint", "models/mine", code=2)


def test_a_run_without_a_checkpoint_says_how_to_go_on(folder: Path) -> None:
    shutil.rmtree(folder / "runs/done/checkpoints")
    assert "hfx train --resume runs/done" in export(folder, "runs/done", code=2)


def test_what_else_is_in_the_folder_is_left_alone(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "notes.txt").write_text("mine")
    assert "'notes.txt'" in export(folder, "runs/done", "--output", "other", code=2)
    shutil.copytree(folder / "runs/done/model", folder / "copy")
    assert "holds other things" in export(folder, "runs/done", "--output", "copy", code=2)
    (folder / "runs/done/model/notes.txt").write_text("mine")
    assert "'notes.txt'" in export(folder, "runs/done", code=2)
    assert "is a file" in export(folder, "runs/done", "--output", "rows.jsonl", code=2)
    assert (folder / "other" / "notes.txt").read_text() == (folder / "runs/done/model/notes.txt").read_text() == "mine"
    assert (folder / "copy" / "model.safetensors").is_file()


@pytest.mark.slow
def test_without_cache_the_data_is_read_again(folder: Path) -> None:
    shutil.rmtree(folder / "cache")
    export(folder, "runs/done", "--output", "again")
    assert same_files(folder / "again", folder / "runs/done/model")


def test_without_cache_the_data_has_to_be_what_it_was(folder: Path) -> None:
    shutil.rmtree(folder / "cache")
    rows = (folder / "rows.jsonl").read_text()
    (folder / "rows.jsonl").write_text(rows.replace("order", "chaos"))
    said = export(folder, "runs/done", code=1)
    assert "the data has changed; put it back, or set HFX_CACHE" in said
    (folder / "rows.jsonl").unlink()
    said = export(folder, "runs/done", code=1)
    assert "'rows.jsonl' does not exist" in said
    assert said.count("\n") == 1


def test_the_policy_decides_as_it_does_for_a_run(folder: Path) -> None:
    (folder / "policy.yaml").write_text("block: [scratch]\n")
    assert "blocked by the policy" in export(folder, "runs/done", code=2, HFX_POLICY="policy.yaml")
    refusing = '''from hfx import Plugin, Problem, hookimpl


class Toy(Plugin):
    """Refuses."""

    @hookimpl
    def hfx_check(self):
        return [Problem("nothing leaves this machine; ask the office")]
'''
    toy_package(folder / "packages", "hfx-office", {"office": refusing})
    (folder / "policy.yaml").write_text("activate: [office]\n")
    given = {"HFX_POLICY": "policy.yaml", "PYTHONPATH": str(folder / "packages")}
    assert "nothing leaves this machine" in export(folder, "runs/done", code=2, **given)


def test_a_checkpoint_that_the_run_drops_meanwhile_is_named(folder: Path) -> None:
    dropping = '''import shutil

from hfx import Plugin, hookimpl


class Toy(Plugin):
    """Does what a run that goes on does."""

    @hookimpl(wrapper=True)
    def hfx_model(self, run):
        shutil.rmtree(run.output / "checkpoints" / "step-00000006")
        return (yield)
'''
    toy_package(folder / "packages", "hfx-dropping", {"dropping": dropping})
    (folder / "policy.yaml").write_text("activate: [dropping]\n")
    given = {"HFX_POLICY": "policy.yaml", "PYTHONPATH": str(folder / "packages")}
    said = export(folder, "runs/done", "--output", "out", code=1, **given)
    assert "dropped 'runs/done/checkpoints/step-00000006' before it was read; ask again" in said
    assert said.count("\n") == 1
    assert not (folder / "out").exists()


def test_several_processes_are_refused(made: Path) -> None:
    assert "one process" in export(made, "runs/done", code=2, RANK="0", WORLD_SIZE="2", LOCAL_RANK="0")


def test_a_disk_that_is_full_leaves_the_model_that_was_there(folder: Path) -> None:
    code = (
        "import resource, runpy, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "sys.argv = ['hfx', 'export', 'runs/done', '--checkpoint', '2']\n"
        "runpy.run_module('hfx', run_name='__main__')"
    )
    before = contents(folder / "runs/done/model")
    given = environment(HFX_CACHE="cache", CUDA_VISIBLE_DEVICES="")
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=given, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("hfx: cannot write the model to '")
    assert done.stderr.endswith("': File too large; free space, or choose another place\n")
    assert contents(folder / "runs/done/model") == before
    assert not list((folder / "runs/done").glob(".export-*"))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}
