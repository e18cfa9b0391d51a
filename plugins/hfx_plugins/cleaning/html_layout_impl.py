"""The text of a parsed page, laid out by its blocks."""

from __future__ import annotations

import re
from typing import Any

from selectolax.lexbor import LexborHTMLParser

_PARAGRAPHS = (
    "article aside blockquote details dl fieldset figure footer form h1 h2 h3 h4 h5 h6 header hr main nav ol p pre "
    "section table ul"
)
_LINES = "caption dd div dt figcaption legend li option summary tbody td tfoot th thead tr"
BLOCKS = (*_PARAGRAPHS.split(), *_LINES.split(), "br")
"""Elements that begin on a line of their own, and `br`."""
_UNSEEN = ["head", "script", "style", "noscript", "template", "iframe", "object", "embed", "svg", "math", "canvas",
           "audio", "video", "select", "button", "input"]  # fmt: skip
_NAVIGATION = ["nav", "header", "footer", "aside"]
_SPACES = re.compile(r"[ \t\n\r\f]+")
_BREAKS = dict.fromkeys(_PARAGRAPHS.split(), 2) | {tag: 1 for tag in _LINES.split() if tag not in ("td", "th")}


def laid_out(html: str, keep_navigation: bool) -> str:
    """Return the text of a page or fragment: blocks on lines, paragraphs between blank lines."""
    tree = LexborHTMLParser(html)
    tree.strip_tags(_UNSEEN if keep_navigation else [*_UNSEEN, *_NAVIGATION])
    layout = _Layout()
    if tree.root is not None:
        layout.walk(tree.root)
    return layout.text()


class _Layout:
    """Pieces of text with the line breaks that are due before the next one."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._due = 0
        self._tabs = 0
        self._space = False
        self._preformatted = 0

    def walk(self, root: Any) -> None:
        """Take in a tree in the order of its text; a loop, as trees can be deeper than Python's stack."""
        node = root
        while node is not None:
            self._enter(node)
            following = node.first_child
            while following is None and node is not None:
                self._leave(node)
                following = node.next
                if following is None:
                    node = node.parent
            node = following

    def _enter(self, node: Any) -> None:
        if node.is_text_node:
            self._write(node.text_content or "")
            return
        tag = node.tag
        if tag == "br":
            self._due = min(self._due + 1, 2)
        elif tag in ("td", "th"):
            self._cell(node)
        elif tag in _BREAKS:
            self._due = max(self._due, _BREAKS[tag])
        self._preformatted += tag in ("pre", "textarea")

    def _leave(self, node: Any) -> None:
        if node.is_text_node:
            return
        tag = node.tag
        if tag in _BREAKS:
            self._due = max(self._due, _BREAKS[tag])
        self._preformatted -= tag in ("pre", "textarea")

    def _cell(self, node: Any) -> None:
        before = node.prev
        while before is not None and before.tag not in ("td", "th"):
            before = before.prev
        self._tabs += before is not None

    def _write(self, text: str) -> None:
        if self._preformatted:
            if text:
                self._break()
                self._pieces.append(text)
            return
        words = _SPACES.sub(" ", text)
        if words.startswith(" "):
            self._space, words = True, words[1:]
        if not words:
            return
        self._break()
        self._pieces.append(words.rstrip(" "))
        self._space = words.endswith(" ")

    def _break(self) -> None:
        if self._due:
            self._pieces.append("\n" * self._due)
        elif self._tabs:
            self._pieces.append("\t" * self._tabs)
        elif self._space and self._pieces and not self._pieces[-1].endswith("\n"):
            self._pieces.append(" ")
        self._due, self._tabs, self._space = 0, 0, False

    def text(self) -> str:
        """Return what was taken in, without blank ends."""
        return "".join(self._pieces).strip()
