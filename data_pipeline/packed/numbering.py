"""Numbers for equal things among many, by arrays of digests: a few bytes each, where names take hundreds."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

import numpy as np


class Digests:
    """Digests of names in the order in which they are added.

    Args:
      columns: of 8 bytes. Of 10^7 names, two have one digest of 1 column by accident with a probability of
        10^-6, of 2 columns with 10^-25.
    """

    def __init__(self, columns: int) -> None:
        self._columns = [array("Q") for _ in range(columns)]

    def add(self, name: str) -> None:
        """Adds a name, which may hold what UTF-8 cannot."""
        raw = name.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(raw, digest_size=8 * len(self._columns)).digest()
        for at, column in enumerate(self._columns):
            column.frombytes(digest[8 * at : 8 * at + 8])

    def columns(self) -> list[np.ndarray]:
        """The digests, uint64 [N] each; nothing can be added while they are in use."""
        return [np.frombuffer(column, np.uint64) for column in self._columns]


def number(digests: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers different digests in the order of their first rows.

    Args:
      digests: their columns, uint64 [N] each.

    Returns:
      The number of each row, int32 [N], and the first row of each number, int64.
    """
    order = np.lexsort(digests[::-1]).astype(np.int32)
    new = np.zeros(len(order), bool)
    new[:1] = True
    for column in digests:
        values = column[order]
        new[1:] |= values[1:] != values[:-1]
    first = order[new]  # the order is stable
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    numbers = np.empty(len(order), np.int32)
    numbers[order] = rank[np.cumsum(new, dtype=np.int32) - 1]
    return numbers, np.sort(first).astype(np.int64)


def repeated(digests: np.ndarray) -> np.ndarray:
    """The rows whose digest another row has as well, rising; uint64 [N] -> int64."""
    values = np.sort(digests)
    twice = values[1:][values[1:] == values[:-1]]
    return np.flatnonzero(np.isin(digests, twice)) if len(twice) else np.zeros(0, np.int64)
