"""The tutorials of the documentation, taken from their pages and followed from an empty folder.

Of a page's code blocks these are followed, in order, in one folder and one shell:

- a block with a title (```` ```python title="rows.py" ````) is a file, which is written;
- `console` holds commands behind `$ `, each with what it prints, cut at `...`: whether its lines are printed, whatever
  the numbers in them, is checked. A command fails where the last of these lines begins with `hfx: `, and works
  otherwise;
- `python` without a title is a script.

Blocks of other languages are only read.

    python tests/tutorials.py docs/tutorials/chat.md FOLDER [MODEL=FOLDER ...]

follows a page in a new folder, and shows what is printed.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from command_line import environment

CHAT, ENCODER = "HuggingFaceTB/SmolLM2-135M-Instruct", "sentence-transformers/all-MiniLM-L6-v2"
"""The models of the hub that pages name, for which folders are given."""

_BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?|\bnan\b")
_UNIT = re.compile(r"(?<=# )(?:[KMGT]i?B|[KMGT]B|µs|ms|s|min|h)\b")
_END = "end of a command:"


@dataclass(frozen=True)
class Step:
    """A file to write, or a command to give with the lines that the page says it prints."""

    text: str
    file: str | None = None
    shown: tuple[str, ...] = ()

    @property
    def fails(self) -> bool:
        """Whether the page shows an error: the last that a command says."""
        return bool(self.shown) and self.shown[-1].startswith("hfx: ")


def steps(page: Path, models: Mapping[str, Path]) -> Iterator[Step]:
    """Yield what a reader of a page does, with folders in place of the hub's models."""
    text = page.read_text()
    for name, folder in models.items():
        text = text.replace(name, str(folder))
    for language, title, body in _BLOCK.findall(text):
        if title:
            yield Step(body, file=title)
        elif language == "console":
            yield from _commands(body)
        elif language == "python":
            yield Step(f"python -c {shlex.quote(body)}")


def _commands(block: str) -> Iterator[Step]:
    for typed in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        lines = typed.splitlines()
        # A command goes on behind a backslash, and within quotes.
        end = next(at for at in range(1, len(lines) + 1) if _whole("\n".join(lines[:at])))
        yield Step("\n".join(lines[:end]), shown=tuple(lines[end:]))


def _whole(text: str) -> bool:
    if text.endswith("\\"):
        return False
    try:
        shlex.split(text)
    except ValueError:
        return False
    return True


def not_printed(step: Step, printed: str) -> list[str]:
    """Return the lines that a page shows and a command did not print in this order, whatever their numbers."""
    if step.text.startswith("hfx generate"):
        return []  # what a model says depends on the model
    rest, lost = [_told(line) for line in printed.splitlines()], []
    for shown in (line for line in step.shown if line != "..."):
        pattern = re.compile(".*".join(re.escape(part) for part in _told(shown).split("...")))
        at = next((at for at, line in enumerate(rest) if pattern.fullmatch(line)), None)
        if at is None:
            lost.append(shown)
        else:
            rest = rest[at + 1 :]
    return lost


def _told(line: str) -> str:
    """Return a line without its numbers and the width of its columns."""
    told = _UNIT.sub("", _NUMBER.sub("#", line))
    return " ".join(re.sub(r"[█▏▎▍▌▋▊▉]+|(?<=\w)-{2,}", "", told).split())


class Shell:
    """A shell in a folder, and in an environment of its own that has what this one has and can be installed into."""

    def __init__(self, folder: Path) -> None:
        place = folder.parent / f"{folder.name}-environment"
        self._python = _environment(place)
        environ = environment(HFX_CACHE=str(folder.parent / f"{folder.name}-cache"), OMP_NUM_THREADS="1")
        environ["PATH"] = f"{place / 'bin'}:{environ['PATH']}"
        self._process = subprocess.Popen(
            ["bash"], cwd=folder, env=environ, text=True, errors="replace", bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        # What the page left in the background goes, too: the shell leads the group of all that it started.
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def give(self, command: str) -> tuple[int, str]:
        """Return a command's exit code, and what it printed."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{{ {command}\n}} </dev/null\ncode=$?; echo; echo '{_END}' $code\n")
        self._process.stdin.flush()
        printed = []
        for line in self._process.stdout:
            if line.startswith(_END):
                return int(line.removeprefix(_END)), "".join(printed)
            printed.append(line)
        raise AssertionError(f"the shell ended in: {command}\n{''.join(printed)}")


def _environment(place: Path) -> Path:
    """Make an environment that also has the packages of this one, and return its Python; its `pip` needs no network."""
    venv.create(place, symlinks=True)
    python = place / "bin" / "python"
    [site] = (place / "lib").glob("*/site-packages")
    own = [path for path in sys.path if path.endswith("site-packages")]
    (site / "packages.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in own))
    for name, command in {
        "hfx": f'{python} -m hfx "$@"',
        "pytest": f'{python} -m pytest -p no:cacheprovider "$@"',
        "torchrun": f'{python} -m torch.distributed.run "$@"',
        "pip": f'{python} {Path(__file__).with_name("editable.py")} "$@"',
    }.items():
        script = place / "bin" / name
        script.write_text(f"#!/bin/sh\nexec {command}\n")
        script.chmod(0o755)
    return python


def follow(page: Path, folder: Path, models: Mapping[str, Path]) -> Iterator[tuple[Step, int, str]]:
    """Do what a page says in a folder, and yield each command with its exit code and what it printed."""
    with Shell(folder) as shell:
        for step in steps(page, models):
            if step.file is None:
                yield step, *shell.give(step.text)
                continue
            target = folder / step.file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(step.text)


def _show(page: Path, folder: Path, models: Mapping[str, Path]) -> None:
    folder.mkdir(parents=True)
    began = time.perf_counter()
    for step, code, printed in follow(page, folder, models):
        print(f"$ {step.text}\n{printed}[{code}, after {time.perf_counter() - began:.0f} s]", flush=True)
        if bool(code) != step.fails:
            print(f"!!! ends with {code}", flush=True)
        for line in not_printed(step, printed):
            print(f"!!! not printed: {line}", flush=True)


if __name__ == "__main__":
    target = Path(sys.argv[2]).absolute()
    given = {name: Path(path).absolute() for name, _, path in (word.partition("=") for word in sys.argv[3:])}
    if not given:
        from tutorial_models import tiny_models

        given = tiny_models((CHAT, ENCODER), target.with_name(f"{target.name}-models"))
    _show(Path(sys.argv[1]), target, given)
