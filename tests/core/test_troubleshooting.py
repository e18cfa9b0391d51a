"""The page of troubles speaks of messages that hfx really has."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guide" / "troubleshooting.md").read_text()
MESSAGES = re.findall(r"^### `(.+)`$", PAGE, re.MULTILINE)


@cache
def sources() -> str:
    """Return the code of hfx, texts that are written over several lines put together."""
    files = [*(ROOT / "core").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    return re.sub(r"\"\s*\n\s*f?\"", "", "\n".join(path.read_text() for path in files))


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_the_page_is_one_of_hfx(message: str) -> None:
    for part in message.split(" ... "):
        assert part in sources(), part


def test_the_page_has_a_word_on_each() -> None:
    assert len(MESSAGES) > 20
    assert all(len(text.strip()) > 40 for text in re.split(r"^### .*$", PAGE, flags=re.MULTILINE)[1:])
