"""What `hfx doctor` looks at here, and what it leaves to processes of their own, which may crash or hang.

Whatever imports torch or somebody's plugin is such a process; they work side by side while this one looks at the rest.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from importlib import import_module

from hfx.cli.doctor_line import Check, Line, looked

HERE = {
    **dict.fromkeys(("python", "cores", "memory", "threads", "shm"), "hfx.cli.doctor_machine_impl"),
    **dict.fromkeys(("folder", "runs", "cache"), "hfx.cli.doctor_folders_impl"),
    "policy": "hfx.cli.doctor_plugins_impl",
}
ELSEWHERE = {
    **dict.fromkeys(("torch", "transformers", "accelerate", "deepspeed", "device"), "hfx.cli.doctor_stack_impl"),
    "ranks": "hfx.cli.doctor_ranks_impl",
    "plugins": "hfx.cli.doctor_plugins_impl",
}
PATIENCE = 30.0
"""Seconds after which a process that does not answer is given up: packages on a cold network disk take long."""
PATIENCE_WITH_PLUGINS = 12.0
"""Those import little."""
QUIET = "hfx.cli.doctor_ranks_impl"
"""It measures, so it waits until the others are done."""


def check_of(name: str) -> Check:
    """Return the check of a name."""
    check: Check = getattr(import_module((HERE | ELSEWHERE)[name]), f"check_{name}")
    return check


def examined(names: Sequence[str]) -> Iterator[Line]:
    """Yield the lines of some checks, in this order, each as soon as it and those before it are known."""
    groups: dict[str, list[str]] = {}
    for name in names:
        if name in ELSEWHERE:
            groups.setdefault(ELSEWHERE[name], []).append(name)
    with ExitStack() as stack:
        workers = {module: stack.enter_context(Worker(of_group)) for module, of_group in groups.items()}
        here = {name: list(looked(name, check_of(name))) for name in names if name in HERE}
        for name in names:
            if ELSEWHERE.get(name) == QUIET:
                for worker in workers.values():
                    if worker is not workers[QUIET]:
                        worker.wait()
                workers[QUIET].go()
            yield from here[name] if name in here else workers[ELSEWHERE[name]].lines(name)


class Worker:
    """A process that makes some checks, one after the other, and tells their lines on its stdout."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._lines: dict[str, list[Line]] | None = None
        command = [sys.executable, "-P", "-m", "hfx.cli.doctor_worker_impl", *names]
        self._patience = PATIENCE_WITH_PLUGINS if "plugins" in names else PATIENCE
        self._until = time.monotonic() + self._patience
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace", process_group=0,
        )  # fmt: skip

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # what it started, too
            self._process.wait()

    def go(self) -> None:
        """Let it measure."""
        self._until = time.monotonic() + self._patience
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write("go\n")
            self._process.stdin.flush()

    def lines(self, name: str) -> list[Line]:
        """Return the lines of one of its checks."""
        return self.wait()[name]

    def wait(self) -> dict[str, list[Line]]:
        """Return all lines by check, once it has ended."""
        if self._lines is None:
            self._lines = self._read()
        return self._lines

    def _read(self) -> dict[str, list[Line]]:
        late = False
        try:
            out, said = self._process.communicate(timeout=max(0.1, self._until - time.monotonic()))
        except subprocess.TimeoutExpired:
            late = True
            self._end()
            out, said = self._process.communicate()
        lines, ended, doing = parsed(out.splitlines())
        why = f"no answer after {self._patience:.0f} s" if late else _ending(self._process.returncode, said)
        for name in self.names:
            if name not in ended:
                what = f"{why}, while {doing}" if doing else why
                lines.setdefault(name, []).append(Line(name, "wrong", what, _advice(name)))
        return lines


def parsed(answers: Iterable[str]) -> tuple[dict[str, list[Line]], set[str], str]:
    """Return the lines by check, the checks that came to their end, and what was last being done."""
    lines: dict[str, list[Line]] = {}
    ended: set[str] = set()
    doing = ""
    for answer in answers:
        told = json.loads(answer)
        if "doing" in told:
            doing = told["doing"]
        elif "ended" in told:
            ended.add(told["ended"])
            lines.setdefault(told["ended"], [])
        else:
            line = Line(**told)
            lines.setdefault(line.check, []).append(line)
    return lines, ended, doing


def _ending(code: int, said: str) -> str:
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")
    if code >= 0:
        return f"its process ended with code {code}: {last}" if last else f"its process ended with code {code}"
    return f"its process was ended by {signal.Signals(-code).name}"


def _advice(name: str) -> str:
    if name == "plugins":
        return "repair that plugin, or uninstall its package"
    if name == "ranks":
        return "'hfx doctor ranks' asks this alone"
    return "reinstall that package, in the version of hfx's constraints file"
