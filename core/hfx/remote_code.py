"""The one gate for code that comes with a model: off unless asked for, and then only code that cannot change.

Pickled weights, which are code as well, are never loaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfx.errors import ConfigError, ModelError
from hfx.protocols import Problem

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DESCRIBED = ("config.json", "tokenizer_config.json", "processor_config.json")
_LAYERS = 10_000
_ADAPTERS = "adapter_config.json"


@dataclass(frozen=True)
class RemoteCode:
    """Whether the code of a model, of a hub id or a folder, may run; `plugin` is whose option says so."""

    plugin: str
    name: str
    revision: str | None = None
    trusted: bool = False

    @property
    def local(self) -> bool:
        """True where the model is a folder of this machine."""
        return Path(self.name).expanduser().exists()

    def problems(self) -> Iterator[Problem]:
        """Yield what forbids it, and that a folder's code will run; for `hfx_check`."""
        if not self.trusted:
            return
        option = f"'{self.plugin}.trust_remote_code'"
        if self.local:
            yield Problem(f"{option} runs the Python code that lies in the folder '{self.name}'", fatal=False)
        elif self.revision is None or not _COMMIT.fullmatch(self.revision):
            yield Problem(
                f"{option} runs whatever the model's publisher uploads next; "
                f"set '{self.plugin}.revision' to the full hash of the commit that you have read"
            )

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `from_pretrained` that decide about code.

        Raises:
            ConfigError: the code is not pinned, or lies in another repository than the model.
        """
        for problem in self.problems():
            if problem.fatal:
                raise ConfigError(problem.message)
        if self.trusted and (elsewhere := self._elsewhere()):
            raise ConfigError(
                f"the code of '{self.name}' comes from '{elsewhere}', of which no commit is pinned; copy model and "
                f"code into one folder, or leave '{self.plugin}.trust_remote_code' out"
            )
        pinned = {} if self.revision is None else {"revision": self.revision}
        return {"trust_remote_code": self.trusted, **pinned}

    def checked(self, config: Any) -> Any:
        """Return a model's config without the code on the hub that it names for attention, which nobody pinned.

        Raises:
            ModelError: it describes more layers than could be built in an hour.
        """
        if "/" in (getattr(config, "_attn_implementation", None) or ""):
            config._attn_implementation = None
        layers = getattr(config.get_text_config(), "num_hidden_layers", None)
        if isinstance(layers, int) and layers > _LAYERS:
            raise ModelError(f"the config of '{self.name}' has {layers:,} layers; give that of a model that exists")
        return config

    def _elsewhere(self) -> str | None:
        """Return the other repository that the model's files send transformers to for code, if any."""
        for file in _DESCRIBED:
            for classes in _texts(self._read(file).get("auto_map")):
                repository, mark, _ = classes.partition("--")
                if mark and repository != self.name:
                    return repository
        base = self._read(_ADAPTERS).get("base_model_name_or_path")
        if not isinstance(base, str) or base == self.name:
            return None
        return RemoteCode(self.plugin, base)._elsewhere() if Path(base).expanduser().is_dir() else base

    def described(self) -> dict[str, Any]:
        """Return the model's `config.json`; empty where there is none that can be read."""
        return self._read("config.json")

    def _read(self, file: str) -> dict[str, Any]:
        from transformers.utils import cached_file

        place = Path(self.name).expanduser()
        given = str(place) if place.is_dir() else self.name
        if place.is_file():  # a .gguf file brings no code
            return {}
        missing = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        path = cached_file(given, file, revision=self.revision, **missing)
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
        except (OSError, ValueError, RecursionError):
            return {}  # transformers says what is wrong with it
        return found if isinstance(found, dict) else {}


@contextmanager
def safetensors_only(name: str) -> Iterator[None]:
    """Refuse pickles while a library loads a model: it falls back to them in more places than it has switches for.

    Raises:
        ModelError: weights are pickled.
    """
    import torch

    def refused(*_: Any, **__: Any) -> Any:
        raise ModelError(
            f"the weights of '{name}' are pickled, and a pickle can run any code; "
            "save them as safetensors (`save_pretrained` does)"
        )

    load, torch.load = torch.load, refused
    try:
        yield
    finally:
        torch.load = load


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
