"""Numbers for equal things among many, by arrays of digests: a few bytes each, where names take hundreds."""

from __future__ import annotations

import hashlib

import numpy as np


class Digests:
    """Digests of names in the order in which they are added.

    Args:
      columns: of 8 bytes. Of 10^7 names, two have one digest of 1 column by accident with a probability of
        10^-6, of 2 columns with 10^-25.
    """

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._bytes = bytearray()

    def add(self, name: str) -> None:
        """Adds a name, which may hold what UTF-8 cannot."""
        raw = name.encode("utf-8", "surrogatepass")
        self._bytes += hashlib.blake2b(raw, digest_size=8 * self._columns).digest()

    def rows(self) -> np.ndarray:
        """The digests, uint64 [N, columns]; nothing can be added while it is in use."""
        return np.frombuffer(self._bytes, np.uint64).reshape(-1, self._columns)


def number(digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers different digests in the order of their first rows.

    Args:
      digests: uint64 [N, C].

    Returns:
      The number of each row, int32 [N], and the first row of each number, int64.
    """
    columns = range(digests.shape[1])
    order = np.lexsort([digests[:, column] for column in reversed(columns)])
    new = np.arange(len(order)) == 0
    for column in columns:
        values = digests[order, column]
        new[1:] |= values[1:] != values[:-1]
    first = order[new]  # the order is stable
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    numbers = np.empty(len(order), np.int32)
    numbers[order] = rank[np.cumsum(new, dtype=np.int32) - 1]
    return numbers, np.sort(first)


def repeated(digests: np.ndarray) -> np.ndarray:
    """The rows whose digest another row has as well, rising; uint64 [N, 1] -> int64."""
    values = np.sort(digests[:, 0])
    twice = values[1:][values[1:] == values[:-1]]
    return np.flatnonzero(np.isin(digests[:, 0], twice)) if len(twice) else np.zeros(0, np.int64)
