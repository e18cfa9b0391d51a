"""Two machines, each started with the same command: they train together, and no cut link hangs them."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from command_line import MODULE, environment
from ranks import SMALL, assert_same_run, distance, folder_of_rows, ledger, trained
from toy_packages import toy_package
from two_machines import ADDRESSES, Machine, missing, two_machines

PACED = '''"""Steps that take their time."""

import json
import time
from pathlib import Path

from hfx import Plugin, hookimpl


class Toy(Plugin):
    """Makes each step take a while, and writes down how many processes made it."""

    seconds: float = 0.2
    """How long."""

    @hookimpl
    def hfx_step_end(self, run):
        time.sleep(self.seconds)
        if run.world.is_main:
            with Path("worlds.jsonl").open("a") as file:
                file.write(json.dumps([run.step, run.world.size]) + "\\n")
'''

pytestmark = [pytest.mark.faults, pytest.mark.skipif(missing() is not None, reason=str(missing()))]
PORT = 29477
MEETING = ADDRESSES[0]


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Machine, Machine]]:
    """Two machines, joined."""
    with two_machines() as made:
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that both see, with a run of two processes on one machine."""
    path = folder_of_rows(tmp_path_factory.mktemp("machines"))
    toy_package(path / "packages", "hfx-paced", {"paced": PACED})
    trained(path, "whole")
    return path


def started(
    folder: Path, machines: Sequence[Machine], output: str, *words: str, nnodes: str = "2"
) -> list[subprocess.Popen[str]]:
    """Start the same command on both machines, or on one of them."""
    meeting = ("--nnodes", nnodes, "--rdzv", f"{MEETING}:{PORT}")
    return [
        subprocess.Popen(
            machine.inside([*MODULE, "train", *SMALL, "--output", output, *meeting, *words]),
            cwd=folder,
            env={
                name: value
                for name, value in environment(folder / "packages", HFX_CACHE=str(folder / "cache")).items()
                if name != "GLOO_SOCKET_IFNAME"
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for machine in machines
    ]


def ended(processes: list[subprocess.Popen[str]], within: float) -> list[tuple[int, str]]:
    """Return how both ended, and what they said; fails where one hangs."""
    said = [process.communicate(timeout=within)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


@pytest.mark.parametrize("words", [(), ("--plugin", "zero", "--zero.stage", "2")], ids=["ddp", "zero2"])
def test_two_machines_train_as_two_processes_of_one(
    words: tuple[str, ...], folder: Path, machines: tuple[Machine, Machine]
) -> None:
    output = "-".join(("both", *words[1:2]))
    assert [code for code, _ in ended(started(folder, machines, output, *words), 120)] == [0, 0]
    assert ledger(folder / output) == ledger(folder / "whole")
    assert distance(folder / output, folder / "whole") < 1e-3
    if not words:
        assert_same_run(folder / output, folder / "whole")


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + 180
    while not any(int(path.name[5:13]) >= step for path in (run / "checkpoints").glob("step-*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_link_cut_for_good_ends_both_with_an_error_that_names_the_trouble(
    folder: Path, machines: tuple[Machine, Machine]
) -> None:
    words = ("--steps", "100000", "--auto-backend.timeout-minutes", "0.2", "--local.restarts", "0")
    processes = started(folder, machines, "cut", *words)
    wait_for_step(folder / "cut", 3)
    machines[1].link("down")
    try:
        outcomes = ended(processes, 150)
    finally:
        machines[1].link("up")
    told = [[line for line in said.splitlines() if line.startswith("hfx: ")][-1] for _, said in outcomes]
    assert [code for code, _ in outcomes] == [1, 1], told
    assert any("waited for another one in vain" in line or "lost the connection" in line for line in told), told
    assert all("rank" in line or "lost the way to '10.77.0.1" in line for line in told), told


@pytest.mark.parametrize("told", [0, 1], ids=["where they meet", "elsewhere"])
def test_a_machine_that_is_told_to_queue_again_saves_with_the_others_and_all_say_so(
    told: int, folder: Path, machines: tuple[Machine, Machine]
) -> None:
    output = f"requeued-{told}"
    processes = started(folder, machines, output, "--steps", "100000")
    wait_for_step(folder / output, 3)
    processes[told].send_signal(signal.SIGUSR1)
    outcomes = ended(processes, 100)
    assert [code for code, _ in outcomes] == [75, 75], outcomes
    steps = [int(path.name[5:13]) for path in (folder / output / "checkpoints").glob("step-*")]
    assert len(ledger(folder / output).splitlines()) == max(steps)


@pytest.mark.slow
def test_a_link_that_is_cut_and_comes_back_lets_the_run_go_on_from_its_checkpoint(
    folder: Path, machines: tuple[Machine, Machine]
) -> None:
    trained(folder, "long", "--steps", "60", "--save-every", "3")
    words = ("--steps", "60", "--save-every", "3", "--auto-backend.timeout-minutes", "0.2")
    processes = started(folder, machines, "back", *words, "--resume", "auto")
    wait_for_step(folder / "back", 3)
    machines[1].link("down")
    time.sleep(25)
    machines[1].link("up")
    outcomes = ended(processes, 200)
    assert [code for code, _ in outcomes] == [0, 0], outcomes
    assert any("begin again" in said for _, said in outcomes)
    assert_same_run(folder / "long", folder / "back")


@pytest.mark.slow
def test_a_machine_that_leaves_is_done_without_and_taken_in_again(
    folder: Path, machines: tuple[Machine, Machine]
) -> None:
    words = ("--steps", "300", "--save-every", "5", "--keep", "3", "--auto-backend.timeout-minutes", "0.2")
    words = (*words, "--plugin", "paced")  # the same command on each, whenever it comes
    trained(folder, "all along", "--steps", "300", "--save-every", "5")
    first, second = started(folder, machines, "elastic", *words, nnodes="1:2")
    wait_for(folder, 10, processes=2)
    for process in [*psutil.Process(second.pid).children(recursive=True), psutil.Process(second.pid)]:
        process.kill()
    second.communicate()
    wait_for(folder, 20, processes=1)
    [again] = started(folder, machines[1:], "elastic", *words, nnodes="1:2")
    outcomes = ended([first, again], 300)
    worlds = [json.loads(line) for line in (folder / "worlds.jsonl").read_text().splitlines()]
    assert [code for code, _ in outcomes] == [0, 0], outcomes
    assert [size for at, (_, size) in enumerate(worlds) if at == 0 or worlds[at - 1][1] != size] == [2, 1, 2]
    assert worlds[-1][0] == 300
    assert ledger(folder / "elastic") == ledger(folder / "all along")
    assert distance(folder / "elastic", folder / "all along") < 1e-3


def wait_for(folder: Path, steps: int, processes: int) -> None:
    """Wait until so many processes have made so many steps."""
    deadline, path = time.monotonic() + 240, folder / "worlds.jsonl"
    while not path.exists() or sum(f", {processes}]" in line for line in path.read_text().splitlines()) < steps:
        assert time.monotonic() < deadline
        time.sleep(0.1)
