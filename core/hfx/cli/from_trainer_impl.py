"""Reading TrainingArguments: from their JSON, or from the words of a command line; never from a pickle."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from hfx.errors import ConfigError, HfxError

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle")
_PROCESSES = ("nproc_per_node", "nproc-per-node", "num_processes", "num-processes", "num_gpus")
"""Options of torchrun, accelerate and deepspeed, before the script."""
_MACHINES = ("nnodes", "num_nodes")
"""Those of torchrun and deepspeed, whose processes are counted on each; accelerate counts them all."""


@dataclass
class Given:
    """The arguments that somebody gave, what the Trainer would take without, and which of them were looked at."""

    values: dict[str, Any]
    defaults: dict[str, list[Any]] = field(default_factory=dict)
    """By name: as the class has it, and as it is once arguments were made."""
    world: int | None = None
    """Processes, where the words of a launcher said so."""
    machines: int = 1
    """Machines that they are on."""
    folder: Path = Path()
    """Where relative paths begin."""
    looked_at: set[str] = field(default_factory=set)

    def take(self, name: str) -> Any:
        """Return an argument's value, or the Trainer's default; from now on it counts as translated."""
        self.looked_at.add(name)
        if name in self.values:
            return self.values[name]
        return self.defaults.get(name, [None])[0]

    def said(self, name: str) -> bool:
        """Return whether the argument was given with another value than the default."""
        if name not in self.values:
            return False
        value = self.values[name]
        known = self.defaults.get(name)
        if known is None:
            return value not in (None, False, "", [], {})
        return all(not _same(value, default) for default in known)

    def left(self) -> list[str]:
        """Return what was given, is no default, and was not translated."""
        return [name for name in self.values if name not in self.looked_at and self.said(name)]


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, bool) or isinstance(default, bool):
        return value is default
    if isinstance(value, int | float) and isinstance(default, int | float):
        return float(value) == float(default)
    empty: tuple[Any, ...] = (None, "", [], {})
    return value == default or (value in empty and default in empty)


def read(said: Sequence[str], folder: Path) -> Given:
    """Return the arguments of a JSON file, or of a command line: one text, or its words.

    Raises:
        ConfigError: it is a pickle, no JSON of arguments, or words that are no options.
    """
    text = said[0] if len(said) == 1 else ""
    if text and "--" not in text and Path(text).suffix in PICKLES:
        raise ConfigError(
            f"'{text}' is a pickle, which can run any code, and is never loaded; where it was written, run: python -c "
            f"\"import torch; print(torch.load('{Path(text).name}', weights_only=False).to_json_string())\" > args.json"
        )
    if text and "--" not in text and Path(text).suffix == ".json":
        path = Path(text).expanduser()
        given = Given(_of_file(path), folder=path.absolute().parent)
    else:
        values, (world, machines) = _of_words(_split(text) if text else list(said))
        given = Given(values, world=world, machines=machines, folder=folder)
    given.defaults = dict(_defaults())
    return given


def _of_file(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"'{path}' cannot be read: {error.strerror}; give a file, or a command line in quotes"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"'{path}' is no JSON ({error}); give what `TrainingArguments.to_json_string()` returns"
        ) from error
    if not isinstance(found, dict):
        raise ConfigError(f"'{path}' holds no arguments; give what `TrainingArguments.to_json_string()` returns")
    return found


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"the command line cannot be read ({error}); look at its quotes") from error


def _of_words(words: list[str]) -> tuple[dict[str, Any], tuple[int | None, int]]:
    """Return options and their values, processes, and machines; a launcher and a script may stand before them."""
    script = max((index for index, word in enumerate(words) if word.endswith(".py")), default=-1)
    world = _world(
        {name: value[0] if isinstance(value, list) else value for name, value in _pairs(words[: script + 1])}
    )
    rest = words[script + 1 :]
    if not rest or not rest[0].startswith("--"):
        raise ConfigError(
            f"'{words[0] if words else ''}' begins neither options nor the name of a JSON file; write "
            "'--learning_rate 1e-5 ...' in quotes"
        )
    return {name.replace("-", "_"): value for name, value in _pairs(rest)}, world


def _world(launcher: dict[str, Any]) -> tuple[int | None, int]:
    """Return how many processes a launcher's options say, on how many machines; None where they leave it open."""
    counts = [launcher[name] for name in _PROCESSES if isinstance(launcher.get(name), int)]
    machines = [launcher[name] for name in _MACHINES if name in launcher]
    if not counts or not all(isinstance(number, int) for number in machines):
        return None, 1
    return counts[-1] * math.prod(machines), math.prod(machines)


def _pairs(words: list[str]) -> Iterator[tuple[str, Any]]:
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if not word.startswith("--"):
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        values = [value] if equals else []
        while not equals and index < len(words) and not words[index].startswith("--"):
            values.append(words[index])
            index += 1
        typed = [_typed(value) for value in values]
        no = name.removeprefix("no_") if not values and name.startswith("no_") else None
        yield (no, False) if no else (name, typed[0] if len(typed) == 1 else typed or True)


def _typed(text: str) -> Any:
    """Return a word as the number, the truth value or the mapping that it writes."""
    if text in ("True", "False"):
        return text == "True"
    if text == "None":
        return None
    try:
        return float(text) if not text.lstrip("+-").isdecimal() else int(text)
    except ValueError:
        pass
    try:
        return json.loads(text) if text[:1] in "{[" else text
    except ValueError:
        return text


def _defaults() -> Iterator[tuple[str, list[Any]]]:
    """Yield the Trainer's defaults by name: of the class, and of arguments that were made without any."""
    from hfx.quiet import quieten

    quieten()
    from transformers import TrainingArguments

    made = json.loads(TrainingArguments(output_dir="trainer_output", use_cpu=True).to_json_string())
    made["disable_tqdm"] = False  # else it follows the logging of this process, which is not that of the script
    for known in dataclasses.fields(TrainingArguments):
        plain = known.default if known.default is not dataclasses.MISSING else None
        plain = plain.value if isinstance(plain, Enum) else plain
        values = [plain]
        if known.name in made and known.name not in ("use_cpu", "dataloader_pin_memory"):
            values.append(made[known.name])
        yield known.name, values


def doubts(text: str) -> Iterator[str]:
    """Yield what is wrong with a config as it stands: values, a policy that refuses it, plugins that do not combine."""
    from hfx.api import problems
    from hfx.resolve import resolve

    try:
        resolved = resolve(mapping=yaml.safe_load(text) or {})
    except HfxError as error:
        yield f"as it stands, the config is refused: {error}"
        return
    yield from (f"as it stands, a run is refused: {found.message}" for found in problems(resolved) if found.fatal)
