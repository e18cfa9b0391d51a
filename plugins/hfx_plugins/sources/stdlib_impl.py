"""Finding the standard library's modules, and cutting them into functions and classes."""

from __future__ import annotations

import ast
import hashlib
import io
import itertools
import json
import os
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hfx import BadRow, Place, Row
from hfx.errors import ConfigError, DataError, nearest

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "__pycache__", "lib-dynload"}


@dataclass(frozen=True, slots=True)
class Module:
    """One file of the library: `json.decoder` of the package `json`."""

    path: str
    name: str

    @property
    def package(self) -> str:
        """The name before the first dot."""
        return self.name.partition(".")[0]


@dataclass
class StdlibSource:
    """The rows of the library's modules, in their order."""

    modules: tuple[Module, ...]
    row: str
    limit: int | None
    indexed: bool = True

    def fingerprint(self) -> str:
        """Return a hash of the modules' names and contents and of how they are read."""
        digest = hashlib.sha256(json.dumps([1, self.row, self.limit]).encode())
        for module in self.modules:
            digest.update(f"\n{module.name} ".encode() + hashlib.sha256(_bytes(module)).digest())
        return digest.hexdigest()

    def read(self, start: int = 0) -> Iterator[Row | BadRow]:
        """Yield the rows, from the one with this number on."""
        return itertools.islice(self._rows(), start, self.limit)

    def formats(self) -> dict[str, int]:
        """Return how many modules there are."""
        return {"python": len(self.modules)}

    def summary(self) -> str:
        """Return one line: how many modules, of which Python."""
        most = f", at most {self.limit} rows" if self.limit else ""
        return f"{len(self.modules)} modules of Python {sysconfig.get_python_version()}'s library by {self.row}{most}"

    def _rows(self) -> Iterator[Row | BadRow]:
        for module in self.modules:
            try:
                found = list(_cut(module, self.row))
            except (SyntaxError, UnicodeDecodeError) as error:
                yield BadRow(Place("stdlib", module.path, 1), f"is not Python: {error}")
                continue
            for line, text in found:
                values = {"text": text, "module": module.name, "package": module.package}
                yield Row(values, Place("stdlib", module.path, line))


def find(packages: tuple[str, ...] | None, spread: bool = False) -> tuple[Module, ...]:
    """Return the library's modules, or those of some packages, sorted; spread: in an order that mixes packages.

    Raises:
        ConfigError: there is no such package.
        DataError: this Python comes without its source.
    """
    root = Path(sysconfig.get_path("stdlib"))
    modules = sorted(_walk(root), key=lambda module: module.name)
    if not modules:
        raise DataError(f"there is no source of the standard library in '{root}'; name your own data with --data")
    names = sorted({module.package for module in modules})
    for package in packages or ():
        if package not in names:
            hint = nearest(package, names) or f" known are {', '.join(names[:5])}, ..."
            raise ConfigError(f"the standard library here has no package '{package}' (stdlib.packages);{hint}")
    chosen = [module for module in modules if packages is None or module.package in packages]
    if spread:
        chosen.sort(key=lambda module: hashlib.sha256(module.name.encode()).digest())
    return tuple(chosen)


def _walk(root: Path) -> Iterator[Module]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT and name.isidentifier())
        for file in files:
            if file.endswith(".py") and not file.startswith("sitecustomize"):
                parts = Path(folder, file).relative_to(root).with_suffix("").parts
                name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
                yield Module(str(Path(folder, file)), name)


def _bytes(module: Module) -> bytes:
    try:
        return Path(module.path).read_bytes()
    except OSError as error:
        raise DataError(f"'{module.path}' cannot be read: {error.strerror}; make it readable") from error


def _cut(module: Module, row: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of the module, or of each of its functions and classes, decorators included."""
    source = _bytes(module)
    encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    text = source.decode(encoding).replace("\r\n", "\n")
    if row == "file":
        yield 1, text
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own, such as invalid escapes
        tree = ast.parse(text)
    lines = text.split("\n")
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            yield first, "\n".join(lines[first - 1 : node.end_lineno])
