"""Numbers that are joined into sets, by union and find."""

from __future__ import annotations

from array import array


class Joined:
    """The numbers from 0, each a set of its own until it is joined with another."""

    def __init__(self, count: int = 0) -> None:
        self._parent = array("q", range(count))

    def grow(self, count: int) -> None:
        """Adds numbers until there are `count`."""
        self._parent.extend(range(len(self._parent), count))

    def first(self, number: int) -> int:
        """The smallest number of the set that a number is in."""
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number

    def join(self, one: int, other: int) -> None:
        """Makes one set of the two that the numbers are in."""
        low, high = sorted((self.first(one), self.first(other)))
        self._parent[high] = low
