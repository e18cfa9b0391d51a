"""Entities in sequences of labels, and how well they are found, as sums that ranks add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Entity = tuple[str, int, int]
"""Its kind, its first word and its last."""
PREFIXES = ("B", "I", "E", "S")


def are_entities(names: Sequence[str]) -> bool:
    """Return whether labels tell where entities begin and go on: `B-PER`, `I-PER`, and `O` for what is none."""
    told = [name for name in names if name != "O"]
    return bool(told) and all(name[:1] in PREFIXES and name[1:2] == "-" for name in told)


def entities(labels: Sequence[str]) -> list[Entity]:
    """Return the entities of a sequence of labels.

    One goes on where its kind does, behind `B` or `I` and at `I` or `E`; whatever else is not `O` begins one, even
    without a `B`. So does CoNLL's script (https://www.clips.uantwerpen.be/conll2000/chunking/).
    """
    found: list[Entity] = []
    before, kind = "O", ""
    for at, label in enumerate(labels):
        tag, _, now = label.partition("-")
        if tag in ("I", "E") and before in ("B", "I") and now == kind:
            found[-1] = (kind, found[-1][1], at)
        elif tag != "O":
            found.append((now, at, at))
        before, kind = tag, now
    return found


class Found:
    """Right words and all words, then for each kind of entity those found, predicted and there: `(1 + kinds, 3)`."""

    def __init__(self, names: Sequence[str]) -> None:
        import torch

        self._names = names
        self._kinds = sorted({name[2:] for name in names if name != "O"}) if are_entities(names) else []
        self.state: Tensor = torch.zeros(1 + len(self._kinds), 3, dtype=torch.float64)

    def update(self, labels: Sequence[int], predicted: Sequence[int]) -> None:
        """Count the words of one example, by the numbers of their labels."""
        import torch

        right = sum(label == other for label, other in zip(labels, predicted, strict=True))
        counts = [[right, len(labels), 0]]
        if self._kinds:
            ours, theirs = (set(entities([self._names[at] for at in each])) for each in (predicted, labels))
            told = [Counter(kind for kind, _, _ in each) for each in (ours & theirs, ours, theirs)]
            counts += [[each[kind] for each in told] for kind in self._kinds]
        self.state += torch.tensor(counts, dtype=torch.float64)

    def compute(self) -> dict[str, float]:
        """Return the figures; nothing without words, and nothing of entities where labels tell of none."""
        right, words, _ = self.state[0].tolist()
        if not words:
            return {}
        return {"accuracy": right / words} | (_scores(*self.state[1:].sum(0).tolist()) if self._kinds else {})

    def details(self) -> dict[str, Any]:
        """Return the figures of each kind of entity, and how many there are."""
        told = zip(self._kinds, self.state[1:].tolist(), strict=True)
        return {"by_label": {kind: {**_scores(*counts), "entities": counts[2]} for kind, counts in told}}


def _scores(found: float, predicted: float, there: float) -> dict[str, float]:
    precision, recall = found / max(1, predicted), found / max(1, there)
    both = precision + recall
    return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / both if both else 0.0}
