"""Every system call of a save fails, or the process dies at it: the old or the new checkpoint is there, and loads.

A process that has torch already forks one child a case. The child waits; `strace` attaches, and makes the n-th call of
one kind fail, or kills the child there.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from hfx.checkpoint import newest, sound, steps_on_disk
from hfx.errors import StorageError
from hfx.saving import rotate
from saved import assert_loads, saved

CALLS = (
    "openat,write,writev,pwrite64,fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,rmdir,"
    "ftruncate,close,lseek,stat,newfstatat,fstat,statfs,fstatfs,getdents64,read"
)
FAULTS = {"EIO": "error=EIO", "ENOSPC": "error=ENOSPC", "SIGKILL": "signal=KILL"}
SAVED, REFUSED = 0, 3


def next_step(output: Path) -> None:
    saved(output, 3)
    rotate(output, 2, step=3)


def same_step(output: Path) -> None:
    saved(output, 2)
    rotate(output, 2, step=2)


def over_damaged(output: Path) -> None:
    """Save where a damaged checkpoint of the same step lies, which the run did not go on from."""
    saved(output, 3)
    rotate(output, 2, step=3)


ACTS: dict[str, Callable[[Path], None]] = {"next": next_step, "same": same_step, "damaged": over_damaged}


@dataclass(frozen=True)
class Case:
    """The n-th call of a kind, and what happens at it."""

    call: str
    number: int
    fault: str

    def __str__(self) -> str:
        return f"{self.fault} at {self.call} {self.number}"


def traced(act: Callable[[], None], *options: str) -> tuple[int, str]:
    """Run something in a forked child under strace, and return how it ended and what strace wrote."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(60)  # nothing here waits for ever
            signal.sigwait({signal.SIGUSR1})  # no system call that is counted
            act()
            code = SAVED
        except StorageError:
            code = REFUSED
        finally:
            os._exit(code)
    tracer = subprocess.Popen(
        ["strace", "-f", "-p", str(child), "-e", f"trace={CALLS}", *options], stderr=subprocess.PIPE, text=True
    )
    assert tracer.stderr is not None
    said = tracer.stderr.readline()
    if "attached" not in said:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        tracer.communicate()
        pytest.skip(f"strace may not trace here: {said.strip()}")
    os.kill(child, signal.SIGUSR1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), tracer.communicate()[1]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What lies on disk before the save, by act."""
    if shutil.which("strace") is None:
        pytest.skip("'strace' is not installed (apt-get install strace)")
    found = {}
    for name in ACTS:
        found[name] = tmp_path_factory.mktemp(name)
        for step in (1, 2):
            saved(found[name], step)
    broken = saved(found["damaged"], 3)
    next(broken.glob("*.safetensors")).write_bytes(b"short")
    return found


def cases(before: Path, act: Callable[[Path], None], scratch: Path) -> list[Case]:
    """Return all cases: the calls of a save without faults are counted."""
    output = scratch / "counted"
    shutil.copytree(before, output)
    code, log = traced(lambda: act(output))
    assert code == SAVED, log
    made = Counter(re.findall(r"^(?:\[pid +\d+\] )?(\w+)\(", log, flags=re.M))
    assert {"writev", "fsync", "rename", "mkdir", "openat"} <= set(made), made
    return [Case(call, n + 1, fault) for call in sorted(made) for n in range(made[call]) for fault in FAULTS]


def assert_nothing_is_lost(output: Path, case: Case, code: int) -> None:
    found = newest(output, 1)
    assert found is not None, f"{case}: no checkpoint is left"
    assert found.step in (2, 3), f"{case}: step {found.step}"
    assert_loads(found)
    assert sum(map(sound, steps_on_disk(output))) + (found.path.suffix == ".new") >= 2, f"{case}: one is left"
    if case.fault == "SIGKILL":
        assert code in (SAVED, -signal.SIGKILL), f"{case}: {code}"
    else:
        assert code in (SAVED, REFUSED), f"{case}: it ended with {code}, and not with a StorageError"
    saved(output, 4)  # a run that goes on finds nothing in its way
    rotate(output, 2, step=4)
    left = sorted((output / "checkpoints").iterdir())
    assert left[-1].name == "step-00000004", f"{case}: {left}"
    assert sum(map(sound, left)) == 2, f"{case}: {left}"
    assert len(left) == 2 or (left[1].name == "step-00000003" and not sound(left[1])), f"{case}: {left}"


@pytest.mark.parametrize("share", [8, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ACTS)
def test_a_save_that_fails_or_dies_at_any_system_call_loses_nothing(
    name: str, share: int, before: dict[str, Path], tmp_path: Path
) -> None:
    act = ACTS[name]
    tried = 0
    for case in cases(before[name], act, tmp_path)[::share]:
        output = tmp_path / "tried"
        shutil.copytree(before[name], output)
        code, _ = traced(
            lambda output=output: act(output), "-e", f"inject={case.call}:{FAULTS[case.fault]}:when={case.number}"
        )
        assert_nothing_is_lost(output, case, code)
        shutil.rmtree(output)
        tried += 1
    assert tried > 10
    print(f"{name}: {tried} cases")
