"""The order of samples: a pure, versioned function of seed, data, sampler and batcher; never of ranks or history.

A position is (epoch, block, window, bin). The sampler orders the examples of a block; every `batcher.window` of them
are grouped into bins, one sequence each; the bins of a window are permuted; `batch_size` sequences in a row are a
global batch. A batch may span windows and blocks, never epochs. Padding is the case of a window of one example.
Finding a position again costs one window.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from hfx.protocols import Batcher, Indices, Sampler, Table

ORDER_VERSION = 1
"""Raise it when any function of this file returns another order than before."""

_ROUNDS = 6
_STRETCH = 4096
"""Examples asked of the sampler at a time: amortises its cost over many small windows."""


def permute(n: int, key: tuple[int, ...], positions: Indices) -> Indices:
    """Return where a permutation of `range(n)` puts these positions, `(len(positions),)`, without materialising it.

    A Feistel network over the next power of four, walked until the value falls below `n` (Black and Rogaway, "Ciphers
    with arbitrary finite domains", 2002); its rounds mix with the finaliser of splitmix64.
    """
    half = max(1, math.ceil((max(n, 2) - 1).bit_length() / 2))
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=8 * _ROUNDS).digest()
    round_keys = np.frombuffer(digest, dtype="<u8")
    values = positions.astype(np.uint64)
    walking = np.arange(len(values))
    while len(walking):
        current = values[walking]
        left, right = current >> shift, current & mask
        for round_key in round_keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        values[walking] = (left << shift) | right
        walking = walking[values[walking] >= np.uint64(n)]
    return values.astype(np.int64)


def _mix(x: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """The next sequence to train on."""

    epoch: int = 0
    block: int = 0
    window: int = 0
    bin: int = 0


@dataclass(frozen=True, slots=True)
class Sequence:
    """One sequence of a batch: the examples it holds, by their index in a block's table."""

    position: Position
    table: Table
    rows: Indices


@dataclass(frozen=True, slots=True)
class GlobalBatch:
    """The sequences of one optimizer step over all ranks, and the position behind them."""

    sequences: list[Sequence]
    next: Position

    def _total(self, column: str) -> int:
        return sum(int(s.table.column(column)[s.rows].sum()) for s in self.sequences)

    @property
    def units(self) -> int:
        """What the step's loss is divided by."""
        return self._total("units")

    @property
    def tokens(self) -> int:
        """Positions that are no padding."""
        return self._total("length")

    def share(self, rank: int, size: int) -> list[Sequence]:
        """Return the sequences of one rank: a contiguous slice; the last ranks may have fewer, or none."""
        each = math.ceil(len(self.sequences) / size)
        return self.sequences[rank * each : (rank + 1) * each]

    def digest(self) -> str:
        """Return a hash of the row and part numbers in the batch, in order: what the ledger records."""
        found = hashlib.sha256()
        for sequence in self.sequences:
            for column in ("row", "part"):
                found.update(sequence.table.column(column)[sequence.rows].astype("<i8").tobytes())
        return found.hexdigest()[:16]


class Blocks(Protocol):
    """The prepared data as a run of tables; one for indexed data."""

    def get(self, index: int) -> Table | None:
        """Return a block's table, or None behind the last one."""


class Order:
    """The sequences and global batches of a run, from any position on."""

    def __init__(
        self, blocks: Blocks, sampler: Callable[[Table], Sampler], batcher: Batcher, batch_size: int, seed: int
    ) -> None:
        self._blocks = blocks
        self._make_sampler = sampler
        self._batcher = batcher
        self._batch_size = batch_size
        self._seed = seed
        self._samplers: dict[int, Sampler] = {}
        self._stretch: tuple[int, int, int, Indices] | None = None
        self._bins: dict[int, int] = {}

    def _sampler(self, block: int, table: Table) -> Sampler:
        if block not in self._samplers:
            self._samplers = {block: self._make_sampler(table)}
        return self._samplers[block]

    def _windows(self, epoch: int, block: int, table: Table) -> int:
        return math.ceil(self._sampler(block, table).size(epoch) / self._batcher.window)

    def _rows(self, epoch: int, block: int, window: int, table: Table) -> Indices:
        """Return the examples of a window, `(<= batcher.window,)`, read from the sampler a stretch at a time."""
        width = self._batcher.window
        start, stop = window * width, (window + 1) * width
        held = self._stretch
        if held is None or held[:2] != (epoch, block) or not held[2] <= start < held[2] + len(held[3]):
            sampler = self._sampler(block, table)
            end = min(max(stop, start + _STRETCH // width * width), sampler.size(epoch))
            held = self._stretch = (epoch, block, start, sampler.rows(epoch, start, end))
        return held[3][start - held[2] : stop - held[2]]

    def _window_bins(self, epoch: int, block: int, window: int, table: Table) -> list[Indices]:
        rows = self._rows(epoch, block, window, table)
        bins = self._batcher.groups(rows, table.column("length")[rows].astype(np.int64))
        if len(bins) < 2:
            return bins
        # Packing begins with the longest rows: the order of bins has to be random again.
        order = permute(len(bins), (self._seed, 1, epoch, block, window), np.arange(len(bins)))
        return [bins[i] for i in order]

    def sequences(self, start: Position) -> Iterator[tuple[Sequence, Position]]:
        """Yield the sequences of one epoch from a position on, each with the position behind it."""
        epoch, block, window, skip = start.epoch, start.block, start.window, start.bin
        while (table := self._blocks.get(block)) is not None:
            for w in range(window, self._windows(epoch, block, table)):
                bins = self._window_bins(epoch, block, w, table)
                for b in range(skip, len(bins)):
                    after = Position(epoch, block, w, b + 1) if b + 1 < len(bins) else Position(epoch, block, w + 1, 0)
                    yield Sequence(Position(epoch, block, w, b), table, bins[b]), after
                skip = 0
            block, window, skip = block + 1, 0, 0

    def batches(self, start: Position) -> Iterator[GlobalBatch]:
        """Yield global batches from a position on, epoch after epoch, without end."""
        position = start
        while True:
            held: list[Sequence] = []
            found = False
            for sequence, after in self.sequences(position):
                held.append(sequence)
                if len(held) == self._batch_size:
                    found = True
                    yield GlobalBatch(held, after)
                    held = []
            if held:
                yield GlobalBatch(held, Position(position.epoch + 1))
            elif not found and position == Position(position.epoch):
                return  # nothing in a whole epoch: the data is empty
            position = Position(position.epoch + 1)

    def position_of_step(self, step: int) -> Position:
        """Return where the batch of a step begins, steps counted from 1, without the batches before it."""
        epoch, left = 0, step - 1
        while left >= (steps := math.ceil(self.bins_in_epoch(epoch) / self._batch_size)):
            if not steps:
                return Position(epoch)
            epoch, left = epoch + 1, left - steps
        return self._position_of_bin(epoch, left * self._batch_size)

    def _position_of_bin(self, epoch: int, index: int) -> Position:
        block = 0
        while (table := self._blocks.get(block)) is not None:
            if self._batcher.window == 1:
                size = self._sampler(block, table).size(epoch)
                if index < size:
                    return Position(epoch, block, index)
                index -= size
            else:
                for window in range(self._windows(epoch, block, table)):
                    bins = len(self._window_bins(epoch, block, window, table))
                    if index < bins:
                        return Position(epoch, block, window, index)
                    index -= bins
            block += 1
        return Position(epoch + 1)

    def bins_in_epoch(self, epoch: int) -> int:
        """Return how many sequences an epoch has; with packing this groups every window once."""
        if epoch not in self._bins:
            total, block = 0, 0
            while (table := self._blocks.get(block)) is not None:
                if self._batcher.window == 1:
                    total += self._sampler(block, table).size(epoch)
                else:
                    windows = self._windows(epoch, block, table)
                    total += sum(len(self._window_bins(epoch, block, w, table)) for w in range(windows))
                block += 1
            self._bins[epoch] = total
        return self._bins[epoch]

    def steps_for_epochs(self, epochs: float) -> int:
        """Return the number of steps in this many epochs, a part of a step rounded up."""
        whole = int(epochs)
        steps = sum(math.ceil(self.bins_in_epoch(e) / self._batch_size) for e in range(whole))
        if rest := Fraction(str(epochs)) - whole:  # as it was typed: 1.1 - 1 is a little more than 0.1
            steps += math.ceil(rest * math.ceil(self.bins_in_epoch(whole) / self._batch_size))
        return max(1, steps)

    def steps_for_tokens(self, tokens: int) -> int:
        """Return the number of steps until this many positions that are no padding have been seen."""
        seen = 0
        for step, batch in enumerate(self.batches(Position()), start=1):
            seen += batch.tokens
            if seen >= tokens:
                return step
        return 1

    def epoch_at(self, position: Position, endless: bool) -> float:
        """Return the position in epochs; whole ones for a stream, whose end nobody knows."""
        if endless or (table := self._blocks.get(position.block)) is None:
            return float(position.epoch)
        size = max(1, self._sampler(position.block, table).size(position.epoch))
        return position.epoch + min(1.0, position.window * self._batcher.window / size)


def plan_sha256(**parts: Any) -> str:
    """Return the hash of everything that decides the order: version, seed, data, sampler, batcher, batch size."""
    return hashlib.sha256(json.dumps({"order_version": ORDER_VERSION, **parts}, sort_keys=True).encode()).hexdigest()


def as_json(position: Position, plan: str) -> dict[str, Any]:
    """Return the state of a run's data: under 1 KB, one for all ranks."""
    return {"order_version": ORDER_VERSION, "plan_sha256": plan, "position": asdict(position)}
