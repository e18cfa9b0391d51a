"""Configs and command lines as nobody should write them, made from a seed."""

from __future__ import annotations

import datetime
import random
from functools import cache
from typing import TYPE_CHECKING, Any

import yaml
from pydantic_core import to_jsonable_python

from hfx.config import RunConfig
from hfx.discovery import found

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_TEXTS = (
    "", " ", "none", "null", "true", "no", "~", "-", "--", "0x", "1e999", "nan", "-inf", "[", "]", "{", "}", "[1, 2",
    "{a: 1}", "[]", "{}", "env:", "env:NOT_SET", "a b", "a,b", "a: b", "ünïcödé", "日本語", "\u202e\u200b", "🦙" * 9,
    "\x1b[31mred", "tab\there", "line\nbreak", "'", '"', "`", "$(id)", "../../etc/passwd", "/dev/null", "/", "~", ".",
    "https://me:pw@host/x", "x" * 300, "x" * 5000, "é" * 200, "1" * 5000, "2024-13-45", "12:99", "!!python/name:os",
    "&a [*a]", "*a", "<<", "=", "%s %d %n", "{0.__class__}", "\\", "\\u0000", "NaN", "yes", "on", "1_000", "0b1", "+1",
    "gpt2", "cosine", "auto", "fp32",
)  # fmt: skip
_MARKS = (*"[]{}:,&*!|>'\"%@`#-?\t \n", "\n\n", ": ", "!!int ", "!!timestamp ", "!!bool ", "!!binary ", "!!set ",
          "!!omap ", "!x ", "&a ", "*a", "<<: ", "--- ", "...", "? ")  # fmt: skip
_OF_YAML = ("\x00", "\ud800", "\ufeff", "\x85", "\u2028")
_NUMBERS = (0, 1, -1, 2, 3, 32, 10**6, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400, 0.0, -0.0, 0.5, 1e-300, 1e300,
            float("inf"), float("-inf"), float("nan"))  # fmt: skip


@cache
def _plugins() -> dict[str, dict[str, Any]]:
    """Return a value that fits for every option of every plugin."""
    loaded = {ref.name: ref.load() for ref in found() if ref.distribution == "hfx"}
    return {name: {key: _fitting(info) for key, info in kind.model_fields.items()} for name, kind in loaded.items()}


@cache
def _fields() -> dict[str, Any]:
    return {key: _fitting(info) for key, info in RunConfig.model_fields.items()}


def _fitting(info: FieldInfo) -> Any:
    value = to_jsonable_python(info.get_default(call_default_factory=True), fallback=str)
    return "text" if info.is_required() else value


class Words:
    """Draws configs and flags; the same seed draws the same."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._wild = self._draw.choice((0.02, 0.1, 0.3, 0.9))
        """How often a word is wrong on purpose."""

    def command(self) -> tuple[list[str], str | None]:
        """Return the words of a command, in which CONFIG stands for a file, and that file's text."""
        draw = self._draw
        text = self._yaml() if draw.random() < 0.7 else None
        words = ["train", "--dry-run"] if draw.random() < 0.8 else ["config", draw.choice(["show", "validate"])]
        words += ["CONFIG"] if text is not None else []
        for _ in range(draw.choice((0, 0, 1, 1, 2, 3, 6)) if text is not None else draw.randint(1, 6)):
            words += self._flag()
        return words, text

    # ── flags ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _flag(self) -> list[str]:
        draw, kind, chosen = self._draw, self._draw.random(), list[str]()
        if kind < 0.3:
            return ["--plugin", self._plugin()]
        if kind < 0.6:
            field = self._field()
            name, fitting = f"--{field}", _fields().get(field)
        elif kind < 0.95:
            plugin = self._plugin()
            option = self._option(plugin)
            name, fitting = f"--{plugin}.{option}", _plugins().get(plugin, {}).get(option)
            chosen = ["--plugin", plugin] if draw.random() > self._wild else []
        else:
            return [self._text()] if draw.random() < self._wild else []
        value = self._text() if draw.random() < self._wild else str(self._drawn(fitting))
        form = draw.random()
        wrong = draw.random() < self._wild
        return (
            [*chosen, name]
            if wrong and form < 0.2
            else [*chosen, name, value]
            if form < 0.6
            else [*chosen, f"{name}={value}"]
        )

    # ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _field(self) -> str:
        return self._bent(self._draw.choice(list(RunConfig.model_fields)))

    def _plugin(self) -> str:
        name = self._draw.choice(list(_plugins()))
        form = self._draw.random()
        if form > self._wild:
            return name if form > 0.5 else self._bent(name)
        return self._draw.choice((f"no:{name}", f"{name}@hfx", f"{name}@nobody", f"no:no:{name}", f"@{name}",
                                  f"{name}@", f"no:{name}@hfx", name.upper(), self._text()))  # fmt: skip

    def _option(self, plugin: str) -> str:
        return self._bent(self._draw.choice(list(_plugins().get(plugin) or ["lr", "weight_decay"])))

    def _bent(self, name: str) -> str:
        """Return a name, most often as it is, else one that is near."""
        draw = self._draw
        if draw.random() > self._wild:
            return name
        at = draw.randrange(len(name))
        more, less = name[:at] + draw.choice("aez_-.é") + name[at:], name[:at] + name[at + 1 :]
        near = (less, more, name.replace("_", "-"), f"{name}s", name.title(), f"{name}.{name}", name[::-1])
        return draw.choice(near)

    # ── values ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _drawn(self, fitting: Any) -> Any:
        """Return the value that fits, or any."""
        return fitting if self._draw.random() > self._wild else self._value()

    def _text(self) -> str:
        return self._draw.choice(_TEXTS)

    def _scalar(self) -> Any:
        draw, kind = self._draw, self._draw.random()
        if kind < 0.4:
            return draw.choice(_NUMBERS)
        if kind < 0.8:
            return self._text()
        return draw.choice((None, True, False, datetime.date(2024, 1, 2), datetime.datetime(2024, 1, 2, 3), b"bytes"))

    def _value(self, depth: int = 0) -> Any:
        draw, kind = self._draw, self._draw.random()
        if kind < 0.7 or depth > 3:
            return self._scalar()
        items = [self._value(depth + 1) for _ in range(draw.randint(0, 3))]
        if kind < 0.85:
            return items
        return {self._draw.choice((self._text(), self._field(), 1, None, True, 1.5)): item for item in items}

    def _yaml(self) -> str:
        draw = self._draw
        fields = [self._field() for _ in range(draw.randint(0, 4))]
        tree: Any = {field: self._drawn(_fields().get(field)) for field in fields}
        if draw.random() < 0.6:
            named: Any = {}
            for _ in range(draw.randint(0, 4)):
                plugin = self._plugin()
                options = [self._option(plugin) for _ in range(draw.randint(0, 3))]
                fitting = {option: self._drawn(_plugins().get(plugin, {}).get(option)) for option in options}
                named[plugin] = fitting if draw.random() > self._wild else self._value()
            tree["plugins"] = named if draw.random() > self._wild else self._value()
        if draw.random() < self._wild / 10:
            tree = self._value()
        text = yaml.safe_dump(tree, allow_unicode=True, sort_keys=False, default_flow_style=draw.random() < 0.2)
        return self._spoilt(text) if draw.random() < self._wild / 2 else text

    def _spoilt(self, text: str) -> str:
        draw = self._draw
        for _ in range(draw.randint(1, 4)):
            at = draw.randint(0, len(text))
            more = draw.choice((*_MARKS, *_OF_YAML))
            text = text[:at] + more + text[at + draw.choice((0, 0, 1, 5)) :]
        return text
