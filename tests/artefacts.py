"""Files made by somebody who means harm: pickles that would run, headers that lie, text that unfolds without end."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEEP = "[" * 100_000
TRAIN = ("--steps", "1", "--batch-size", "2", "--seq-length", "16", "--eval-share", "0", "--plugin", "fp32",
         "--plugin", "no:progress")  # fmt: skip


@dataclass
class Place:
    """Where a test makes its artefact: `folder`, a good model and texts to copy, and a file that must never appear."""

    folder: Path
    model: Path
    canary: Path
    run: Path
    """A good run of one step to copy; its cache lies beside it."""
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def texts(self) -> str:
        path = self.folder / "texts.jsonl"
        path.write_text("".join(json.dumps({"text": f"some words, number {n}"}) + "\n" for n in range(8)))
        return str(path)

    def payload(self) -> bytes:
        """Return a pickle that writes the canary when it is loaded."""
        return pickle.dumps(_Payload(str(self.canary)))

    def code(self) -> str:
        """Return Python that writes the canary when it is imported."""
        return f"open({str(self.canary)!r}, 'w').close()\n"

    def write(self, name: str, content: bytes | str) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    def copied(self) -> Path:
        """Return a copy of the good model to spoil."""
        return Path(shutil.copytree(self.model, self.folder / "given"))

    def changed(self, file: str, **values: Any) -> Path:
        """Return a copy of the good model with some values of a JSON file changed."""
        model = self.copied()
        found = json.loads((model / file).read_text()) if (model / file).exists() else {}
        (model / file).write_text(json.dumps(found | values))
        return model

    def tagged(self) -> str:
        """Return YAML whose tag asks Python to run something."""
        return f'!!python/object/apply:builtins.exec ["{self.code().strip()}"]'

    def objects(self) -> bytes:
        """Return a file of numpy whose array holds pickled objects."""
        import numpy as np

        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (8,)})
        return header.getvalue() + self.payload()

    def training(self, model: Path, *more: str) -> Sequence[str]:
        output = str(self.folder / "run")
        return ("train", "--model", str(model), "--data", self.texts, "--output", output, *TRAIN, *more)

    def generating(self, model: Path) -> Sequence[str]:
        return ("generate", str(model), "--prompt", "some", "--max-new-tokens", "1")

    def reading(self, *data: str) -> Sequence[str]:
        return ("data", "stats", "--data", *data, "--plugin", "no:progress", "--max-bad-rows", "0")


class _Payload:
    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({self.canary!r}, 'w').close()",)


@dataclass(frozen=True)
class Artefact:
    """What is made, and how a command about it has to end."""

    sentence: str
    make: Callable[[Place], Sequence[str]]
    codes: tuple[int, ...] = (1, 2)
    says: str = ""
    alone: bool = False
    """Whether it is only tried in a process of its own, whose memory and time are bounded."""

    def __str__(self) -> str:
        return self.sentence
