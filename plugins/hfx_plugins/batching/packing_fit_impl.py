"""Which lengths share a sequence, so that few sequences are needed; pure functions of the lengths.

Best fit puts each example where the least room is left, and so uses up the short ones long before the end: with few of
them every fifth sequence stays short of full. Closing fills one sequence after the other, from the longest example that
is left on, and ends each with two that fill it exactly; with 10,000 examples to choose from there mostly are two.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter

_SHORT = 256
"""How far short of full two last examples are looked for; beyond it one is put in, and then looked again."""


def fitted(lengths: list[int], capacity: int) -> list[int]:
    """Return the number of each example's sequence, whichever way needs fewer; `lengths` fall and none is too long."""
    found = best_fit(lengths, capacity)
    needed = max(found) + 1
    if needed <= -(-sum(lengths) // capacity):
        return found
    other = closing(lengths, capacity)
    return other if max(other) + 1 < needed else found


def best_fit(lengths: list[int], capacity: int) -> list[int]:
    """Return the number of each example's sequence: the one with the least room that suffices, or a new one.

    `lengths` fall. The room left in each sequence is kept sorted, as `room * count + number`, so finding and moving one
    costs a bisection, whatever the capacity.
    """
    count, least = len(lengths), lengths[-1]
    rooms: list[int] = []
    found: list[int] = []
    opened = 0
    for length in lengths:
        at = bisect_left(rooms, length * count)
        if at < len(rooms):
            room, number = divmod(rooms.pop(at), count)
        else:
            room, number = capacity, opened
            opened += 1
        found.append(number)
        if room - length >= least:
            insort(rooms, (room - length) * count + number)
    return found


def closing(lengths: list[int], capacity: int) -> list[int]:
    """Return the number of each example's sequence: the longest that is left, then what fills it, exactly if it can.

    `lengths` fall; examples without a position go into the first sequence.
    """
    left = _Left(lengths, capacity)
    found = [0] * len(lengths)
    number = 0
    while left.any():
        room = capacity
        while room and (chosen := left.next(room)):
            for length in chosen:
                found[left.take(length)] = number
            room -= sum(chosen)
        number += 1
    return found


class _Left:
    """The lengths that are left, as bits of one number and, mirrored, of another: two that add up are one `&` away."""

    def __init__(self, lengths: list[int], capacity: int) -> None:
        self._capacity = capacity
        self._counts = Counter(lengths)
        self._first = {length: place for place, length in reversed(list(enumerate(lengths)))}
        self._bits = self._mirrored = 0
        for length in self._counts:
            if length:
                self._flip(length)

    def _flip(self, length: int) -> None:
        self._bits ^= 1 << length
        self._mirrored ^= 1 << (self._capacity - length)

    def any(self) -> bool:
        """Return whether an example with positions is left."""
        return self._bits > 0

    def take(self, length: int) -> int:
        """Return the place of an example of this length, which then is gone."""
        place = self._first[length]
        self._first[length] += 1
        self._counts[length] -= 1
        if not self._counts[length]:
            self._flip(length)
        return place

    def next(self, room: int) -> tuple[int, ...]:
        """Return what comes into a sequence with so much room: one length, or the last two, or nothing that fits."""
        fitting = self._bits & ((2 << room) - 1)
        longest = fitting.bit_length() - 1
        if longest < 0:
            return ()
        if room == longest or room > 2 * longest:
            return (longest,)
        for total in range(room, max(longest, room - _SHORT), -1):
            both = fitting & (self._mirrored >> (self._capacity - total))  # the lengths whose rest to `total` is there
            half = both.bit_length() - 1
            if 2 * half == total and self._counts[half] < 2:
                half = (both ^ (1 << half)).bit_length() - 1
            if half > 0:
                return half, total - half
        return (longest,)
