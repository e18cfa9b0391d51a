"""`hfx train` from the first word to the exit code, and `hfx generate` on what it leaves behind."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from command_line import MODULE, environment, hfx
from toy_packages import toy_package

SIGNALLER = '''import os
import signal

from hfx import Plugin, hookimpl


class Toy(Plugin):
    """Sends this process a signal after the second step."""

    name_of_signal: str = "SIGINT"
    """Which."""
    first: bool = False
    """Whether the run was to end at this step anyway."""

    @hookimpl
    def hfx_step_end(self, run, metrics):
        if metrics["step"] == 2:
            if self.first:
                run.request_stop("it is enough")
            os.kill(os.getpid(), getattr(signal, self.name_of_signal))
'''
SLOW = '''import time

from hfx import Plugin, hookimpl


class Toy(Plugin):
    """Takes long to load a model."""

    @hookimpl(wrapper=True)
    def hfx_model(self, run):
        time.sleep(4)
        return (yield)
'''
REFUSER = '''from hfx import Plugin, hookimpl
from hfx.errors import IncompatibleError


class Toy(Plugin):
    """Refuses the run before its first step."""

    @hookimpl(wrapper=True)
    def hfx_run(self, run):
        raise IncompatibleError("not with this model; take another")
        yield
'''
SMALL = ["--data", "text.txt", "--files.row", "line", "--eval-share", "0.2", "--seq-length", "32", "--batch-size", "4"]
SMALL += ["--scratch.layers", "1", "--scratch.hidden-size", "32", "--scratch.heads", "2", "--bpe.vocab-size", "300"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    lines = [f"{left} plus {right} is {left + right}." for left in range(8) for right in range(8)]
    (folder / "text.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path) -> str:
    """The stdout of a run that ended by itself; its path is the last word."""
    done = hfx("train", *SMALL, "--steps", "3", "--output", "done", cwd=folder, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_last_line_is_the_path_of_the_run(finished: str, folder: Path) -> None:
    assert finished.splitlines()[-1] == "run: done"
    assert len((folder / "done" / "metrics.jsonl").read_text().splitlines()) >= 3
    assert (folder / "done" / "model" / "config.json").is_file()


def test_figures_are_told_where_nobody_shows_progress(folder: Path) -> None:
    words = ["--plugin", "no:progress", "--steps", "1", "--output", "silent"]
    done = hfx("train", *SMALL, *words, cwd=folder, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    path, figures = done.stdout.splitlines()[-2:]
    assert path == "run: silent"
    assert figures.startswith("step 1  ")
    assert "eval_loss" in figures


@pytest.mark.usefixtures("finished")
def test_generate_continues_a_prompt_and_repeats_itself(folder: Path) -> None:
    words = ["--prompt", "1 plus", "--max-new-tokens", "5", "--temperature", "1.0"]
    first, again, other = (
        hfx("generate", "done", *words, "--seed", seed, cwd=folder, OMP_NUM_THREADS="1") for seed in ("1", "1", "2")
    )
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("1 plus")
    assert first.stdout == again.stdout != other.stdout


@contextmanager
def on_a_terminal(folder: Path, model: str, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Yield `hfx generate` at work on a terminal of its own, and the end that shows what is written to it."""
    shown, terminal = pty.openpty()
    process = subprocess.Popen(
        [*MODULE, "generate", model, "--prompt", "1 plus", *words], cwd=folder,
        stdin=subprocess.DEVNULL, stdout=terminal, stderr=subprocess.PIPE, env=environment(OMP_NUM_THREADS="1"),
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )  # fmt: skip
    os.close(terminal)
    try:
        yield process, shown
    finally:
        process.kill()
        process.communicate()
        os.close(shown)


def written(shown: int) -> bytes:
    """Return what is there to read from a terminal; nothing once the process has closed it."""
    try:
        return os.read(shown, 65536)
    except OSError:
        return b""


@pytest.mark.usefixtures("finished")
def test_generate_writes_on_a_terminal_as_the_words_come(folder: Path) -> None:
    words = ("--max-new-tokens", "40", "--temperature", "1.0", "--seed", "1")
    with on_a_terminal(folder, "done", *words) as (process, shown):
        pieces = list(iter(lambda: written(shown), b""))
        assert process.wait() == 0
    plain = hfx("generate", "done", "--prompt", "1 plus", *words, cwd=folder, OMP_NUM_THREADS="1")
    assert b"".join(pieces).decode().replace("\r\n", "\n") == plain.stdout
    assert len(pieces) > 3


@pytest.mark.usefixtures("finished")
def test_ctrl_c_ends_generate_without_a_traceback(folder: Path) -> None:
    shutil.copytree(folder / "done" / "model", folder / "endless")
    path = folder / "endless" / "model.safetensors"
    weights = load_file(path)
    end = json.loads((folder / "endless" / "config.json").read_text())["eos_token_id"]
    weights["model.embed_tokens.weight"][end] = 0  # the head, too: some token is likelier than the one that ends a text
    save_file(weights, path, metadata={"format": "pt"})
    with on_a_terminal(folder, "endless", "--max-new-tokens", "100000") as (process, shown):
        assert written(shown)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 130
        assert b"Traceback" not in told


@pytest.mark.usefixtures("finished")
def test_generate_refuses_an_empty_prompt_in_one_line(folder: Path) -> None:
    done = hfx("generate", "done/model", "--prompt", "", cwd=folder)
    assert done.returncode == 1
    assert "the prompt has no tokens" in done.stderr


def test_generate_says_that_a_run_has_no_model_yet(tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "run.yaml").write_text("steps: 3\n")
    done = hfx("generate", "begun", "--prompt", "a", cwd=tmp_path)
    assert done.returncode == 2
    assert "no model yet" in done.stderr


def test_generate_refuses_a_model_that_writes_no_text(folder: Path) -> None:
    rows = [{"text": f"{name} {number}", "label": name} for name in ("ham", "spam") for number in range(20)]
    (folder / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--data", "labelled.jsonl", "--plugin", "classification", "--steps", "1", "--output", "labels"]
    small = [word for word in SMALL if word not in ("--files.row", "line", "--data", "text.txt")]
    assert hfx("train", *small, *words, cwd=folder, OMP_NUM_THREADS="1").returncode == 0

    done = hfx("generate", "labels", "--prompt", "x", cwd=folder)

    assert done.returncode == 1
    assert done.stdout == ""
    assert "LlamaForSequenceClassification" in done.stderr


def test_a_dry_run_says_what_the_run_would_be_refused_for() -> None:
    done = hfx("train", "--plugin", "pretrained", "--data", "text.txt", "--dry-run")
    assert done.returncode == 2
    assert done.stderr.startswith("hfx: 'pretrained' has no model to load")
    assert "run.data" in done.stdout


@pytest.mark.parametrize("command", [("train",), ("train", "--dry-run"), ("data", "prepare")], ids=" ".join)
def test_all_that_a_run_is_refused_for_is_said_at_once_a_line_each(command: tuple[str, ...], folder: Path) -> None:
    words = "--plugin pretrained --plugin optimizer_in_backward --max-grad-norm 1.0 --data text.txt"
    done = hfx(*command, *words.split(), cwd=folder)
    assert done.returncode == 2
    refused = [line for line in done.stderr.splitlines() if not line.startswith("hfx: warning")]
    assert len(refused) >= 2, done.stderr
    assert all(line.startswith("hfx: '") for line in refused)
    assert any("'optimizer_in_backward' cannot clip" in line for line in refused)
    assert any("'pretrained' has no model to load" in line for line in refused)


@pytest.mark.usefixtures("finished")
def test_resuming_whatever_the_output_holds_needs_nothing_else(folder: Path) -> None:
    done = hfx("train", "--output", "done", "--resume", "auto", "--dry-run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "done/run.yaml:" in done.stdout
    assert "demo recipe" not in done.stdout


@pytest.mark.usefixtures("finished")
def test_a_model_that_a_plugin_would_leave_unread_is_refused(folder: Path) -> None:
    done = hfx("train", "done/run.yaml", "--model", "done/model", "--output", "other", "--dry-run", cwd=folder)
    assert done.returncode == 2
    assert "'done/model'" in done.stderr
    assert "no:scratch" in done.stderr or "no:bpe" in done.stderr
    plain = ["--plugin", "no:scratch", "--plugin", "no:bpe"]
    done = hfx("train", "done/run.yaml", "--model", "done/model", "--output", "other", *plain, "--dry-run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "pretrained" in done.stdout


@pytest.mark.parametrize("words", [["--output", "elsewhere"], ["--output", "elsewhere", "--steps", "9"]])
@pytest.mark.usefixtures("finished")
def test_a_run_is_resumed_where_it_is_or_not_at_all(words: list[str], folder: Path) -> None:
    done = hfx("train", "--resume", "done", *words, cwd=folder)
    assert done.returncode == 2
    assert "'done' is resumed where it is" in done.stderr
    assert not (folder / "elsewhere").exists()


@pytest.mark.usefixtures("finished")
def test_resuming_a_finished_run_says_that_nothing_is_left(folder: Path) -> None:
    done = hfx("train", "--resume", "done", cwd=folder, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert "nothing is left to train" in done.stderr


def test_resuming_automatically_needs_a_folder_to_look_in(tmp_path: Path) -> None:
    done = hfx("train", "--resume", "auto", cwd=tmp_path)
    assert done.returncode == 2
    assert "--output" in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_output_that_holds_other_things_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = hfx("train", *SMALL, "--output", str(tmp_path), cwd=folder)
    assert done.returncode == 2
    assert "holds other things" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_two_processes_never_train_in_one_folder(folder: Path) -> None:
    command = [*MODULE, "train", *SMALL, "--steps", "100000", "--output", "shared"]
    environ = environment(OMP_NUM_THREADS="1")
    with subprocess.Popen(
        command, cwd=folder, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as first:
        while not (folder / "shared" / "metrics.jsonl").exists():
            assert first.poll() is None
            time.sleep(0.05)
        second = hfx("train", *SMALL, "--steps", "5", "--output", "shared", "--resume", "auto", cwd=folder)
        first.kill()
    assert second.returncode == 1
    assert "another process is training in 'shared'" in second.stderr
    assert "steps: 100000" in (folder / "shared" / "run.yaml").read_text()


def test_of_two_that_prepare_for_a_new_folder_at_once_one_trains_there(folder: Path) -> None:
    packages = folder / "packages-slow"
    toy_package(packages, "hfx-slow", {"slow": SLOW})
    command = [*MODULE, "train", *SMALL, "--steps", "30", "--plugin", "slow", "--output", "at-once"]
    environ = environment(packages, OMP_NUM_THREADS="1")
    both = [subprocess.Popen(command, cwd=folder, env=environ, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=200)[1] for process in both]
    codes = [process.returncode for process in both]
    assert codes.count(0) == 1, said
    refused = said[1 - codes.index(0)]
    assert "another process is training in 'at-once'" in refused or "another run began in 'at-once'" in refused
    steps = [json.loads(line)["step"] for line in (folder / "at-once" / "ledger.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 31))


@pytest.mark.usefixtures("finished")
def test_a_longer_run_has_the_new_schedules_learning_rate_from_its_first_step(folder: Path) -> None:
    shutil.copytree(folder / "done", folder / "longer")
    longer, whole = (
        hfx("train", *words, "--steps", "6", cwd=folder, OMP_NUM_THREADS="1")
        for words in (["--resume", "longer"], [*SMALL, "--output", "whole"])
    )
    assert (longer.returncode, whole.returncode) == (0, 0), longer.stderr + whole.stderr
    rates = [
        {line["step"]: line["lr"] for line in map(json.loads, (folder / run / "metrics.jsonl").open()) if "lr" in line}
        for run in ("longer", "whole")
    ]
    assert [rates[0][step] for step in (4, 5, 6)] == [rates[1][step] for step in (4, 5, 6)]


def test_a_model_that_is_not_there_is_told_before_anything_is_read(folder: Path) -> None:
    done = hfx("train", "--model", "runs/no/model", "--data", "text.txt", "--dry-run", cwd=folder)
    assert done.returncode == 2
    assert "no such path 'runs/no/model'" in done.stderr


@pytest.mark.usefixtures("finished")
def test_rows_are_counted_before_they_are_cut(folder: Path) -> None:
    words = ["--steps", "1", "--output", "counted", "--seq-length", "4"]
    done = hfx("train", *SMALL, *words, cwd=folder, OMP_NUM_THREADS="1")
    [line] = [line for line in done.stderr.splitlines() if line.startswith("rows ")]
    read, trained, held_out = (int(number) for number in re.findall(r"(\d+) (?:read|to train|to evaluate)", line))
    assert (read, trained + held_out) == (64, 64)


@pytest.mark.parametrize("first", ["false", "true"], ids=["alone", "where a plugin asked for the end before"])
@pytest.mark.parametrize(("signal", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 75)])
def test_a_run_that_a_signal_ends_is_saved_and_exits_with_its_code(
    signal: str, code: int, first: str, folder: Path
) -> None:
    packages = folder / f"packages-{signal}-{first}"
    toy_package(packages, "hfx-signaller", {"signaller": SIGNALLER})
    words = ["--plugin", "signaller", "--signaller.name-of-signal", signal, "--steps", "50"]
    words += ["--signaller.first", first, "--output", (signal := f"{signal}-{first}")]
    done = hfx("train", *SMALL, *words, cwd=folder, path=packages, OMP_NUM_THREADS="1")
    assert done.returncode == code, done.stderr
    assert f"go on with 'hfx train --resume {signal}'" in done.stderr
    steps = [json.loads(line)["step"] for line in (folder / signal / "metrics.jsonl").read_text().splitlines()]
    assert max(steps) < 50
    assert list((folder / signal / "checkpoints").glob("step-*/MANIFEST.json"))


def test_a_run_that_begins_anew_and_is_refused_before_its_first_step_can_still_be_resumed(folder: Path) -> None:
    packages = folder / "packages-anew"
    toy_package(packages, "hfx-refuser", {"refuser": REFUSER})
    words = [*SMALL, "--steps", "4", "--output", "anew"]
    assert hfx("train", *words, cwd=folder, OMP_NUM_THREADS="1").returncode == 0
    shutil.rmtree(folder / "anew" / "checkpoints")
    refused = hfx("train", "--resume", "anew", "--plugin", "refuser", cwd=folder, path=packages, OMP_NUM_THREADS="1")
    assert refused.returncode == 2, refused.stderr
    again = hfx("train", "--resume", "anew", "--plugin", "no:refuser", cwd=folder, path=packages, OMP_NUM_THREADS="1")
    assert again.returncode == 0, again.stderr
    assert "it begins anew" in again.stderr


def test_a_run_that_a_plugin_refuses_before_its_first_step_leaves_nothing(folder: Path) -> None:
    packages = folder / "packages-refuser"
    toy_package(packages, "hfx-refuser", {"refuser": REFUSER})
    words = ["--plugin", "refuser", "--output", "refused"]
    done = hfx("train", *SMALL, *words, cwd=folder, path=packages, OMP_NUM_THREADS="1")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "hfx: not with this model; take another"
    assert not (folder / "refused").exists()


@pytest.mark.usefixtures("finished")
def test_a_run_that_is_resumed_by_its_path_keeps_its_config(folder: Path) -> None:
    done = hfx("train", "--resume", "done", "--log-every", "2", "--dry-run", cwd=folder)
    assert done.returncode == 0, done.stderr
    values = {line.split()[0]: line.split()[1:] for line in done.stdout.partition("\n\n")[0].splitlines()}
    assert values["run.steps"][0] == "3"
    assert values["run.steps"][1].startswith("done/run.yaml:")
    assert values["run.output"][0] == "done"
    assert values["run.log_every"] == ["2", "--log-every"]
    assert values["run.resume"] == ["done", "--resume"]


def test_resuming_what_is_no_run_is_refused(tmp_path: Path) -> None:
    done = hfx("train", "--resume", "nothing", cwd=tmp_path)
    assert done.returncode == 2
    assert "'nothing' holds no run" in done.stderr
