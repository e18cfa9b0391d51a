"""Who hangs: every rank says where it is, and one that waited in vain asks those that are behind for their stack."""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

if TYPE_CHECKING:
    from hfx.protocols import World

PERIOD = 0.5
"""Seconds between two looks at what others ask, and two words of where this rank is."""
ANSWER = 5.0
"""Seconds within which a rank that lives answers."""


class Watch:
    """What this rank tells the others in the store where they meet, from a thread of its own."""

    def __init__(self, store: Any, world: World) -> None:
        self._store, self._world = store, world
        self._place: tuple[int, str] = (0, "its start")
        self._main = threading.get_ident()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="hfx-watch", daemon=True)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Tell as long as the context is open."""
        self._thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self._thread.join(ANSWER)

    def at(self, what: str) -> None:
        """Say what this rank begins; all ranks begin the same things in the same order."""
        self._place = (self._place[0] + 1, what)

    def _tell(self) -> None:
        store, rank = self._store.clone(), self._world.rank
        try:
            while not self._ended.wait(PERIOD):
                store.set(f"at/{rank}", json.dumps(self._place))
                if store.check([f"asked/{rank}"]):
                    store.set(f"stack/{rank}", self._stack())
        except dist.DistError:
            return  # the store is gone, and with it whoever could ask

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._main)
        return "".join(traceback.format_stack(frame)) if frame else ""

    def hanging(self) -> str | None:
        """Return which ranks did not come where this one waited, and where each of them is; None where all came.

        It writes their stacks to stderr.
        """
        try:
            return self._ask(self._store.clone())
        except dist.DistError:
            return None  # the store is gone: nobody can be asked

    def _ask(self, store: Any) -> str | None:
        places: dict[int, tuple[int, str]] = {self._world.rank: self._place}
        for rank in range(self._world.size):
            if rank != self._world.rank and store.check([f"at/{rank}"]):
                count, what = json.loads(store.get(f"at/{rank}"))
                places[rank] = (count, what)
        behind = [rank for rank in range(self._world.size) if places.get(rank, (-1, ""))[0] < self._place[0]]
        for rank in behind:
            store.set(f"asked/{rank}", "")
        stacks = self._answers(store, behind)
        told: list[str] = []
        for rank in behind:
            what = places[rank][1] if rank in places else "its start"
            if rank in stacks:
                print(f"rank {rank} hangs in {what}:\n{stacks[rank]}", file=sys.stderr)
                told.append(f"rank {rank} hangs in {what}, {_place_of(stacks[rank])}")
            else:
                silent = f"rank {rank} does not answer, it is stopped or its machine is gone"
                told.append(f"{silent}; last heard of in {what}")
        return "; ".join(told) or None

    def _answers(self, store: Any, asked: list[int]) -> dict[int, str]:
        until = time.monotonic() + ANSWER
        found: dict[int, str] = {}
        while len(found) < len(asked) and time.monotonic() < until:
            found |= {rank: store.get(f"stack/{rank}").decode() for rank in asked if store.check([f"stack/{rank}"])}
            time.sleep(PERIOD / 5)
        return found


def _place_of(stack: str) -> str:
    """Return file and line of the innermost frame: of hfx or a plugin where there is one behind torch's."""
    frames = [line.strip() for line in stack.splitlines() if line.lstrip().startswith("File ")]
    return frames[-1] if frames else "nowhere that Python knows of"
