"""How deep tags are nested, estimated before a parser sees them: its time is quadratic in the depth, and worse."""

from __future__ import annotations

import re
from collections import Counter

_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)([^<>]{0,200})")
# They hold nothing, or a browser ends them itself where the next one begins (a link, too).
_ENDS_ITSELF = (
    "area base br col embed hr img input link meta param source track wbr "
    "html head body p li dt dd tr td th thead tbody tfoot colgroup option a"
)
_NOT_NESTED = frozenset(_ENDS_ITSELF.split())
# Left open, they are opened again in every block that follows; of equal ones a browser keeps three.
_FORMATTING = frozenset(("b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u"))
_MOST_EQUAL = 3
_MOST_REPEATED = 2_000_000
# No end tag closes anything outside of them.
_WALLS = frozenset(("applet", "caption", "marquee", "math", "object", "svg", "table", "template"))


def too_deep(html: str, limit: int) -> bool:
    """Return whether more tags than the limit seem to be open at once, unclosed ones included."""
    if html.count("<") <= limit:
        return False
    lowered = html.lower()
    nesting = _Nesting(foreign="<svg" in lowered or "<math" in lowered)
    repeated = 0
    for end, name, attributes in _TAG.findall(lowered):
        if end:
            nesting.close(name)
        elif not attributes.endswith("/") or name not in _WALLS:
            nesting.open(name, attributes)
            repeated += nesting.again
        if nesting.depth > limit or repeated > _MOST_REPEATED:
            return True
    return False


class _Segment:
    """The open tags outside of which the end tags in it reach nothing."""

    def __init__(self, wall: str) -> None:
        self.wall = wall
        self.names: list[str] = []
        self.count = Counter[str]()

    def add(self, name: str) -> None:
        self.names.append(name)
        self.count[name] += 1

    def remove(self, name: str) -> None:
        self.names.remove(name)
        self.count[name] -= 1

    def pop(self) -> str:
        name = self.names.pop()
        self.count[name] -= 1
        return name


class _Nesting:
    """The tags that are open."""

    def __init__(self, foreign: bool) -> None:
        # Inside of drawings and formulas nothing ends by itself.
        self._ends_itself = frozenset() if foreign else _NOT_NESTED
        self._segments = [_Segment("")]
        self._walls = Counter[str]()
        self._formatting: dict[str, list[tuple[str, int]]] = {name: [] for name in _FORMATTING}
        self._equal = Counter[str]()
        self._open = 0
        self.again = 0
        """Formatting that the next block would open again."""

    @property
    def depth(self) -> int:
        """How many tags are open, those among them that a block would open again."""
        return self._open + self.again

    def open(self, name: str, attributes: str) -> None:
        """Take in a start tag."""
        if name in self._ends_itself:
            return
        self._open += 1
        if name in _WALLS:
            self._segments.append(_Segment(name))
            self._walls[name] += 1
            return
        self._segments[-1].add(name)
        written = name + attributes
        if name in _FORMATTING and self._equal[written] < _MOST_EQUAL:
            self._equal[written] += 1
            self.again += 1
            self._formatting[name].append((written, len(self._segments)))

    def close(self, name: str) -> None:
        """Take in an end tag; one without its start tag in reach ends nothing."""
        segment = self._segments[-1]
        if name in _WALLS:
            self._close_wall(name)
        elif name in _FORMATTING:
            self._close_formatting(name, segment)
        elif segment.count[name]:
            self._open -= 1
            while segment.pop() != name:
                self._open -= 1

    def _close_wall(self, name: str) -> None:
        while self._walls[name]:
            segment = self._segments.pop()
            self._walls[segment.wall] -= 1
            self._open -= len(segment.names) + 1
            if segment.wall == name:
                return

    def _close_formatting(self, name: str, segment: _Segment) -> None:
        active = self._formatting[name]
        if active and active[-1][1] >= len(self._segments):
            self._equal[active.pop()[0]] -= 1
            self.again -= 1
        if segment.count[name]:
            segment.remove(name)
            self._open -= 1
