"""The launcher: several processes from one word, and whatever happens to them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from command_line import MODULE, environment, hfx
from hfx import Plugin, hookimpl
from hfx.api import train
from hfx.errors import IncompatibleError
from hfx_plugins.launchers.address_impl import own_address
from ranks import SMALL, assert_same_run, distance, folder_of_rows, ledger, metrics, trained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows, and a run of two processes in it that nothing disturbed."""
    path = folder_of_rows(tmp_path_factory.mktemp("local"))
    trained(path, "whole")
    return path


def test_two_processes_see_and_learn_what_one_does(folder: Path) -> None:
    trained(folder, "one", nproc=1)
    assert ledger(folder / "one") == ledger(folder / "whole")
    for alone, shared in zip(metrics(folder / "one"), metrics(folder / "whole"), strict=True):
        assert shared["loss"] == (alone["loss"] and pytest.approx(alone["loss"], rel=1e-5))


def test_other_ranks_write_to_their_logs(folder: Path) -> None:
    assert [file.name for file in (folder / "whole" / "logs").iterdir()] == ["rank-1.log"]


def test_a_killed_process_begins_again_and_the_run_ends_with_the_same_bits(folder: Path) -> None:
    said = trained(folder, "killed", "--plugin", "harm", "--harm.mark", "once").stderr
    assert "rank 1 was ended by SIGKILL" in said
    assert "all begin again at the newest checkpoint, 2 more times" in said
    assert_same_run(folder / "whole", folder / "killed")


@pytest.mark.slow
def test_restarts_end(folder: Path) -> None:
    words = ("--plugin", "harm", "--harm.always", "true", "--harm.step", "1", "--local.restarts", "1")
    told = [line for line in trained(folder, "ever", *words, code=1).stderr.splitlines() if line.startswith("hfx: ")]
    killed = "hfx: rank 1 was ended by SIGKILL; the system does that where memory is short"
    assert told == [f"{killed}; all begin again at the newest checkpoint, 0 more times", killed]


def test_the_first_failing_rank_is_what_the_user_sees_and_a_mistake_is_not_tried_again(folder: Path) -> None:
    words = ("--plugin", "harm", "--harm.does", "raise", "--harm.mark", "raised")
    done = trained(folder, "raising", *words, code=1)
    told = [line for line in done.stderr.splitlines() if line.startswith("hfx: ")]
    assert (
        told
        == [
            "hfx: rank 1: plugin 'harm' (hfx-harm 1.0) raised ArithmeticError in hfx_step_end: the toy is broken; "
            "report it to the authors of 'hfx-harm', or drop it"
        ]
        or "rank 1: plugin 'harm' (hfx-harm 1.0) raised ArithmeticError" in told[0]
    )
    assert "Traceback" not in done.stderr
    assert "ArithmeticError: the toy is broken" in (folder / "raising" / "logs" / "rank-1.log").read_text()


def endless(folder: Path, output: str) -> subprocess.Popen[str]:
    """Start a run that would take hours, and wait until it trains."""
    words = [*SMALL, "--output", output, "--nproc", "2", "--steps", "100000", "--save-every", "100000"]
    process = subprocess.Popen(
        [*MODULE, "train", *words],
        cwd=folder,
        env=environment(HFX_CACHE=str(folder / "cache")),
        stderr=subprocess.PIPE,
        text=True,
        # Under nohup a process ignores it, and so would this one.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL) and None,
    )
    while not (folder / output / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.1)
    return process


@pytest.mark.parametrize(
    "sent", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)], ids=["SIGTERM", "SIGHUP"]
)
def test_a_signal_to_the_launcher_is_passed_on_and_the_run_is_saved(sent: signal.Signals, folder: Path) -> None:
    process = endless(folder, sent.name)
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "stopped by SIGTERM" in said
    step = int(said.partition("at step ")[2].partition(",")[0])
    assert (folder / sent.name / "checkpoints" / f"step-{step:08d}" / "MANIFEST.json").exists()


@pytest.mark.slow
def test_ranks_whose_launcher_is_killed_save_and_end(folder: Path) -> None:
    process = endless(folder, "orphans")
    ranks = psutil.Process(process.pid).children()
    process.kill()
    _, alive = psutil.wait_procs(ranks, timeout=60)
    assert not alive
    assert len(list((folder / "orphans" / "checkpoints").glob("step-*/MANIFEST.json"))) == 1


def test_a_run_that_is_refused_leaves_nothing(folder: Path) -> None:
    done = hfx(
        *("train", "--data", "nothing.jsonl", "--output", "refused", "--nproc", "2"),
        cwd=folder,
        HFX_CACHE=str(folder / "cache"),
    )
    assert done.returncode in (1, 2)
    assert "nothing.jsonl" in done.stderr
    assert not (folder / "refused").exists()


def test_what_fails_before_the_first_step_is_told_as_one_process_tells_it(folder: Path) -> None:
    (folder / "prompts.yaml").write_text("plugins: {samples: {prompts: ['']}}")
    words = ("train", "prompts.yaml", *SMALL)
    told = {}
    for nproc in ("1", "2"):
        done = hfx(*words, "--output", "unbegun", "--nproc", nproc, cwd=folder, HFX_CACHE=str(folder / "cache"))
        told[nproc] = done.returncode, re.sub(r"rank \d: ", "", done.stderr.splitlines()[-1])
        assert not (folder / "unbegun").exists()
    assert told["1"] == told["2"] == (2, "hfx: '' of 'samples.prompts' has no tokens; give some text")


def test_a_run_that_is_refused_leaves_what_others_wrote_beside_its_logs(folder: Path) -> None:
    mine = folder / "shared" / "logs" / "slurm-17.out"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    words = ("train", "--data", "nothing.jsonl", "--output", "shared")
    for nproc in ("1", "2"):
        done = hfx(*words, "--nproc", nproc, cwd=folder, HFX_CACHE=str(folder / "cache"))
        assert done.returncode in (1, 2)
        assert [file.name for file in mine.parent.iterdir()] == ["slurm-17.out"]


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda sent: sent.name)
def test_a_machine_that_waits_for_others_can_be_told_to_end(sent: signal.Signals, folder: Path) -> None:
    words = [*SMALL, "--output", "waiting", "--nnodes", "2", "--rdzv", f"127.0.0.1:{free_port()}"]
    process = subprocess.Popen(
        [*MODULE, "train", *words], cwd=folder, env=environment(HFX_CACHE=str(folder / "cache")),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not any(one.status == "LISTEN" for one in psutil.Process(process.pid).net_connections()):
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(sent)
    _, said = process.communicate(timeout=30)
    assert process.returncode == {"SIGTERM": 143, "SIGINT": 130, "SIGUSR1": 75}[sent.name], said
    assert f"hfx: this machine was told to end by {sent.name} and had no step to finish; run it again" in said
    assert not (folder / "waiting").exists()


def test_a_port_that_is_taken_is_told_as_one(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        words = ("train", *SMALL, "--output", "taken-port", "--nnodes", "2", "--rdzv", place)
        done = hfx(*words, cwd=folder, HFX_CACHE=str(folder / "cache"))
    assert done.returncode == 1
    assert f"hfx: '{place}', where the machines meet, has that port in use; choose another port" in done.stderr


def test_a_run_from_python_leaves_the_environment_as_it_was(folder: Path) -> None:
    code = (
        "import os, hfx\n"
        "before = dict(os.environ)\n"
        "given = dict(data='rows.jsonl', nproc=2, steps=1, seq_length=48, batch_size=2)\n"
        "given |= {'bpe.vocab_size': 280, 'scratch.hidden_size': 32, 'scratch.layers': 1, 'scratch.heads': 4}\n"
        "config = {key: value for key, value in given.items() if '.' not in key}\n"
        "config['plugins'] = {'bpe': {'vocab_size': 280}, 'scratch': {'hidden_size': 32, 'layers': 1, 'heads': 4}}\n"
        "hfx.train(config, output='python')\n"
        "assert 'HFX_JOB' not in os.environ, os.environ['HFX_JOB']\n"
        "try:\n"
        "    hfx.train(config, output='python')\n"
        "except hfx.HfxError as error:\n"
        "    print('refused:', error)\n"
    )
    env = environment(HFX_CACHE=str(folder / "cache"))
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, check=True)
    assert "refused: 'python' holds a run; go on with" in done.stdout


class Given(Plugin):
    """An object, and no entry point."""

    @hookimpl
    def hfx_step_end(self) -> None:
        """Do nothing."""


def test_objects_cannot_be_handed_to_other_processes(folder: Path) -> None:
    with pytest.raises(IncompatibleError, match="'given' was given as an object"):
        train(data=str(folder / "rows.jsonl"), output=folder / "objects", nproc=2, plugins=[Given()])
    assert not (folder / "objects").exists()


def test_several_machines_need_a_place_to_meet_and_one_folder(folder: Path) -> None:
    done = hfx("train", *SMALL, "--output", "x", "--nnodes", "2", cwd=folder)
    assert done.returncode == 2
    assert "add '--rdzv HOST:PORT'" in done.stderr
    done = hfx("train", *SMALL, "--nnodes", "3:2", "--rdzv", "localhost:29400", "--output", "x", cwd=folder)
    assert "at least 3 machines, and at most 2" in done.stderr
    done = hfx("train", *SMALL, "--nnodes", "2", "--rdzv", "localhost:29400", cwd=folder)
    assert "add '--output'" in done.stderr


# ── processes that somebody else started ─────────────────────────────────────────────────────────────────────────────


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def by_hand(folder: Path, output: str, places: list[dict[str, str]], *own: list[str]) -> list[tuple[int, str]]:
    """Start one process for each set of variables, and return how each ended and what it said."""
    words = [*MODULE, "train", *SMALL, "--output", output]
    started = [
        subprocess.Popen(
            [*words, *(own[number] if own else [])],
            cwd=folder,
            env=environment(HFX_CACHE=str(folder / "cache"), **place),
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, place in enumerate(places)
    ]
    said = [process.communicate(timeout=120)[1] for process in started]
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


def ranks(port: str) -> list[dict[str, str]]:
    return [
        {"RANK": str(n), "WORLD_SIZE": "2", "LOCAL_RANK": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for n in range(2)
    ]


@pytest.mark.slow
def test_processes_that_somebody_started_are_taken_as_they_are(folder: Path) -> None:
    assert [code for code, _ in by_hand(folder, "taken", ranks(free_port()))] == [0, 0]
    assert_same_run(folder / "whole", folder / "taken")


def test_ranks_that_resolved_different_runs_are_refused(folder: Path) -> None:
    ended = by_hand(folder, "other", ranks(free_port()), ["--seed", "1"], ["--seed", "2"])
    for code, said in ended:
        assert code == 1
        assert "hfx: rank 1 resolved another run than rank 0: 'seed: 2' in place of 'seed: 1'" in said


def test_tasks_of_srun_are_ranks(folder: Path) -> None:
    port = free_port()
    tasks = [
        {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": str(n), "SLURM_LOCALID": str(n), "SLURM_JOB_ID": "7",
         "SLURM_STEP_NODELIST": "localhost", "MASTER_PORT": port}
        for n in range(2)
    ]  # fmt: skip
    assert [code for code, _ in by_hand(folder, "tasks", tasks)] == [0, 0]
    assert_same_run(folder / "whole", folder / "tasks")


def test_one_task_on_each_node_and_a_number_of_processes_is_refused_where_nobody_says_where_they_meet(
    folder: Path,
) -> None:
    task = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
            "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "MASTER_PORT": free_port()}  # fmt: skip
    [(code, said)] = by_hand(folder, "tasks-and-processes", [task], ["--nproc", "2"])
    assert code == 2
    assert "srun started one task on each node, and 'nproc' is 2; let it start all of them" in said


@pytest.mark.slow
def test_accelerate_launches_it_and_is_not_let_to_promise_an_engine(folder: Path) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines",
               "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", free_port(), "-m",
               "hfx", "train", *SMALL, "--output", "accelerated"]  # fmt: skip
    env = environment(HFX_CACHE=str(folder / "cache")) | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert ledger(folder / "whole") == ledger(folder / "accelerated")
    # It sets the number of threads as it likes, so sums may differ in their last bits.
    assert distance(folder / "whole", folder / "accelerated") < 1e-5
    refused = hfx("train", *SMALL, "--output", "x", cwd=folder, ACCELERATE_USE_DEEPSPEED="true")
    assert (
        "'accelerate launch' was told to use DeepSpeed, and this run would not; add '--plugin zero'" in refused.stderr
    )


def test_threads_that_are_asked_for_are_those_of_a_run_in_this_process() -> None:
    code = (
        "import torch\n"
        "from types import SimpleNamespace as Of\n"
        "from hfx import World\n"
        "from hfx_plugins.launchers.local import Local\n"
        "run = Of(world=World(), config=Of(nproc=1, nnodes='1'))\n"
        "print(Local(threads=5).hfx_launch(run=run, main=lambda run: torch.get_num_threads()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "5\n"


def test_a_machine_whose_own_name_leads_to_itself_alone_is_where_the_others_meet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def named(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (host if host[0].isdigit() else "127.0.1.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", named)
    own = own_address("myself")
    assert own.is_meeting
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            assert own.address == probe.getsockname()[0] != "127.0.0.1"
        except OSError:  # this machine has no way out
            assert own.address == "127.0.0.1"
    assert own_address("127.0.0.1").address == "127.0.0.1"


def test_threads_are_shared_out(folder: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    free = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    code = (
        "import json, os\n"
        "from hfx_plugins.launchers.local import Local\n"
        "from hfx_plugins.launchers.local_impl import _environment, _for_processes, own_address\n"
        "seen = []\n"
        "for options in (Local(), Local(threads=3)):\n"
        "    with _environment(_for_processes(options, 2, own_address('127.0.0.1'))):\n"
        "        seen.append(os.environ['OMP_NUM_THREADS'])\n"
        "print(json.dumps([*seen, os.environ.get('OMP_NUM_THREADS')]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=free, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [str(max(1, cores // 2)), "3", None]
