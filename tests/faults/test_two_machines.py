"""Two machines, each started with the same command: they train together, and no cut link hangs them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_line import MODULE, environment
from ranks import SMALL, assert_same_run, distance, folder_of_rows, ledger, trained
from two_machines import Machine, missing, two_machines

pytestmark = [pytest.mark.faults, pytest.mark.skipif(missing() is not None, reason=str(missing()))]
PORT = 29477


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Machine, Machine]]:
    """Two machines, joined."""
    with two_machines() as made:
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that both see, with a run of two processes on one machine."""
    path = folder_of_rows(tmp_path_factory.mktemp("machines"))
    trained(path, "whole")
    return path


def started(folder: Path, machines: tuple[Machine, Machine], output: str, *words: str) -> list[subprocess.Popen[str]]:
    """Start the same command on both machines."""
    meeting = ("--nnodes", "2", "--rdzv", f"{machines[0].address}:{PORT}")
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
