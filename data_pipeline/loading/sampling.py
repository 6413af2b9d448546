"""The endless sequence of training records, a pure function of the settings.

A *unit* is what is drawn at once: one record, or a fake with its real. A *stream* is the units of
one kind from one packed set; each epoch of a stream is a fresh permutation of it. The mixture
interleaves the streams by their weights, evenly, so every batch holds the shares that were asked
for. Nothing here depends on the number of processes or workers, and nothing is held in memory but
row numbers.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import Any, Final, Literal

import grain
import numpy as np

from data_pipeline.loading.settings import DataSettings
from data_pipeline.packed.reader import PackedSplit
from data_pipeline.packed.record import Sample
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import FAKE, REAL

Kind = Literal["all", "fake", "real", "pair"]


#: Fakes of a set that are checked for a mask: where none of these has one, the set has none.
_CHECKED_FOR_MASKS: Final = 100


class Stream:
    """The units of one kind in one packed split, restricted to some methods.

    `start` is the number of the split's first record over all sets.

    The row numbers are read from the memory-mapped index when they are first needed, in each
    worker separately, so that pickling stays small.
    """

    def __init__(
        self,
        split: PackedSplit,
        start: int,
        kind: Kind,
        weight: float,
        methods: tuple[str, ...],
    ) -> None:
        self.split = split
        self.start = start
        self.kind = kind
        self.weight = weight
        self._methods = methods
        self._rows: Sequence[int] | np.ndarray | None = None
        self._length = len(self.rows)

    @property
    def rows(self) -> Sequence[int] | np.ndarray:
        """The row that each unit is named by, [n]; of a pair, the fake's."""
        if self._rows is None:
            self._rows = _rows(self.split, self.kind, self._methods)
        return self._rows

    def __len__(self) -> int:
        return self._length

    def unit(self, number: int) -> tuple[int, ...]:
        """The rows of a unit: one, or the fake's and its real's."""
        row = int(self.rows[number])
        return (row, int(self.split.index[row]["pair"])) if self.kind == "pair" else (row,)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": None}


class Mixture:
    """The streams of a run and their endless interleaving.

    Attributes:
        streams: in the order of `settings.train`; fakes before reals where both are balanced.
        unit_size: examples in a unit, 1 or 2.
        records_per_epoch: examples in one pass over what the settings select from all sets. With
            weights or balance, some records come more and others less often than once in that span.

    Raises:
        UserError: no set is named, a set cannot be read, or the selection leaves it empty.
    """

    def __init__(self, settings: DataSettings) -> None:
        if not settings.train:
            raise UserError("data.train names no packed set: give at least one (folder, weight)")
        self.splits = [PackedSplit(folder, "train") for folder, _ in settings.train]
        _check_methods(self.splits, settings.methods)
        _check_labels(self.splits, settings.methods)
        self.unit_size = 2 if settings.paired else 1
        self.streams: list[Stream] = []
        self.records_per_epoch = 0
        self._starts = list(itertools.accumulate((len(s) for s in self.splits), initial=0))
        for split, start, (_, weight) in zip(
            self.splits, self._starts, settings.train, strict=False
        ):
            shares: dict[Kind, float]
            if settings.paired:
                shares = {"pair": 1.0}
            elif settings.balance is not None:
                shares = {"fake": settings.balance, "real": 1 - settings.balance}
            else:
                shares = {"all": 1.0}
            for kind, share in shares.items():
                stream = Stream(split, start, kind, weight * share, settings.methods)
                if not len(stream):
                    raise UserError(_empty(split, kind, settings.methods))
                self.streams.append(stream)
                self.records_per_epoch += len(stream) * self.unit_size
        lengths = (len(stream) for stream in self.streams[:-1])
        self._firsts = list(itertools.accumulate(lengths, initial=0))

    def units(self, seed: int) -> grain.MapDataset:
        """Endless dataset of numbers for `locate`: every stream's units shuffled anew in each epoch."""
        seeds = np.random.SeedSequence(seed).generate_state(len(self.streams))
        endless = [
            grain.MapDataset.range(first, first + len(stream)).shuffle(seed=int(own)).repeat()
            for stream, first, own in zip(self.streams, self._firsts, seeds, strict=True)
        ]
        if len(endless) == 1:
            return endless[0]
        return grain.MapDataset.mix(endless, [stream.weight for stream in self.streams])

    def locate(self, number: int) -> tuple[Stream, int]:
        """The stream of a unit, by its number over all streams, and its number there."""
        position = bisect.bisect_right(self._firsts, number) - 1
        return self.streams[position], number - self._firsts[position]

    def draw(self, rng: np.random.Generator) -> Sample:
        """The sample of one record of the mixture, at random by the streams' weights."""
        weights = np.array([stream.weight for stream in self.streams])
        stream = self.streams[int(rng.choice(len(weights), p=weights / weights.sum()))]
        rows = stream.unit(int(rng.integers(len(stream))))
        return stream.split.sample(rows[int(rng.integers(len(rows)))])

    def check_masks(self) -> None:
        """Checks that the fakes come with forgery masks.

        Raises:
            UserError: none of a set's first fakes does.
        """
        for split in self.splits:
            fakes = itertools.islice(
                np.flatnonzero(split.index["label"] == FAKE), _CHECKED_FOR_MASKS
            )
            if not any(split.sample(int(row)).mask for row in fakes):
                raise UserError(
                    f"{split.folder} has no forgery masks, which loss.local learns from: annotate it "
                    "with --masks=DIR and pack it again, or set loss.local to 0"
                )

    def describe(self, number: int) -> str:
        """Names a record for a message: folder, split and id."""
        position = bisect.bisect_right(self._starts, number) - 1
        split = self.splits[position]
        record = split[number - self._starts[position]]
        return f"{record.id!r} of {split.folder} ({split.split})"


def select_rows(split: PackedSplit, methods: tuple[str, ...]) -> Sequence[int] | np.ndarray:
    """Rows, [n], of the reals and of the fakes of the given methods (all when empty), in order.

    Raises:
        UserError: a method that the split does not have, or nothing is left.
    """
    _check_methods([split], methods)
    rows = _rows(split, "all", methods)
    if not len(rows):
        raise UserError(_empty(split, "all", methods))
    return rows


def _rows(split: PackedSplit, kind: Kind, methods: tuple[str, ...]) -> Sequence[int] | np.ndarray:
    index = split.index
    if kind == "all" and not methods:
        return range(len(index))  # costs nothing to make, to hold and to send to a worker
    label = index["label"]
    chosen = label == (REAL if kind == "real" else FAKE)
    if methods and kind != "real":
        known = [split.methods.index(name) for name in methods if name in split.methods]
        chosen &= np.isin(index["method"], known)
    if kind == "pair":
        chosen &= index["pair"] >= 0
    if kind == "all":
        chosen |= label == REAL
    return np.flatnonzero(chosen).astype(np.int32)


def _check_labels(splits: list[PackedSplit], methods: tuple[str, ...]) -> None:
    labels = {
        label
        for split in splits
        for label in np.unique(split.index["label"][_rows(split, "all", methods)]).tolist()
    }
    missing = [name for name, label in (("reals", REAL), ("fakes", FAKE)) if label not in labels]
    if len(missing) == 1:  # a set without any is named elsewhere
        folders = ", ".join(str(split.folder) for split in splits)
        raise UserError(
            f"data.train: {folders} has no {missing[0]} in split 'train', and a detector learns from reals and "
            f"fakes; add a set that has {missing[0]}"
        )


def _check_methods(splits: list[PackedSplit], methods: tuple[str, ...]) -> None:
    known = sorted({name for split in splits for name in split.methods} - {"real"})
    for name in methods:
        if name not in known:
            folders = ", ".join(str(split.folder) for split in splits)
            raise UserError(
                f"no fakes of method {name!r} in {folders} (it has: {', '.join(known)})"
            )


def _empty(split: PackedSplit, kind: Kind, methods: tuple[str, ...]) -> str:
    what = {"all": "records", "fake": "fakes", "real": "reals", "pair": "pairs of fake and real"}
    of = f" of the methods {', '.join(methods)}" if methods and kind != "real" else ""
    return (
        f"{split.folder} has no {what[kind]}{of} in split {split.split!r}: take the set out of "
        "data.train, or change data.methods, data.balance or data.paired"
    )
