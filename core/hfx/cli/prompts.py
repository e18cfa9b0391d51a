"""What `hfx generate` is asked: prompts, and files of them."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfx.errors import DataError


@dataclass(frozen=True)
class Asked:
    """A text to continue, or what was said in a conversation so far."""

    prompt: str = ""
    messages: tuple[dict[str, Any], ...] = ()

    def conversation(self, system: str | None) -> list[dict[str, Any]]:
        """Return the messages, the system's first; a prompt is what the user says."""
        said = list(self.messages or [{"role": "user", "content": self.prompt}])
        own = [message for message in said if message.get("role") == "system"]
        return said if system is None or own else [{"role": "system", "content": system}, *said]

    def told(self) -> dict[str, Any]:
        """Return what identifies it beside its answer."""
        return {"messages": list(self.messages)} if self.messages else {"prompt": self.prompt}


def prompts_of(name: str) -> list[Asked]:
    """Return the prompts of a file, or of the standard input (`-`); empty lines are none.

    Raises:
        DataError: it cannot be read, has none, or a line of a `.jsonl` file is no prompt.
    """
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the prompts in '{name}' cannot be read: {error}") from error
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise DataError(f"'{name}' has no prompt; write one a line")
    if not name.endswith(".jsonl"):
        return [Asked(line) for _, line in lines]
    return [_of_json(line, f"{name}:{number}") for number, line in lines]


def _of_json(line: str, where: str) -> Asked:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: no JSON: {error}") from error
    if isinstance(values, dict):
        prompt, messages = values.get("prompt"), values.get("messages")
        if isinstance(prompt, str) and prompt:
            return Asked(prompt)
        if isinstance(messages, list) and messages and all(isinstance(message, dict) for message in messages):
            return Asked(messages=tuple(messages))
    raise DataError(f"{where}: a prompt has 'prompt', a text, or 'messages', a list of 'role' and 'content'")
