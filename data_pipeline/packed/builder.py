"""Annotation lines into a packed set: every fake once, every real once, people kept in one split.

Lines are read twice: first all of them, keeping a few integers each (which file, which offset,
which real, how many bytes), then once more in the order of writing. So ten million lines need no
more memory than their integers and the paths of their reals. A real and its fakes always lie in one
shard.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from data_pipeline.packed import face_geometry
from data_pipeline.packed.annotation import Annotation, parse_line
from data_pipeline.packed.card import Counts, write_card
from data_pipeline.packed.pair_records import fake_record, real_record
from data_pipeline.packed.reader import is_packed_set
from data_pipeline.packed.record import SPLITS, Record
from data_pipeline.packed.splits import SHARES, Groups
from data_pipeline.packed.writer import Shard, write_packed_set
from jax_vlffd.errors import UserError

#: A shard is closed once it holds so many bytes of images.
SHARD_BYTES: Final = 256 << 20

_FAULTS_SHOWN: Final = 3


class PackPlan:
    """What will be written: read once from the annotation files, then turned into shards.

    Attributes:
        files: the annotation files.
        total: records that will be written.
        skipped: pairs that were never annotated, counted by their error's code.
        split_rule: how the splits were made, for the data card.
        counts: what has been written so far.
        geometry: of the faces written so far, by split, their rows one after the other.
        reals_without_video: reals that only their content tells apart, so that one person may be in
            several splits.

    Raises:
        UserError: files or lines are missing or faulty; the message names file and line.
    """

    def __init__(
        self,
        files: Sequence[Path],
        split: str | None,
        shares: Sequence[float] = SHARES,
        faces: Callable[[list[Path]], Sequence[int]] | None = None,
    ) -> None:
        self.files = list(files)
        self._file, self._offset, self._line = array("H"), array("q"), array("q")
        self._real, self._bytes = array("q"), array("q")
        self._real_bytes = array("q")  # -1 where the real of a fake is not known
        self._splits: dict[int, int] = {}
        self._reals: dict[str, int] = {}
        self._groups = Groups()
        self.skipped: collections.Counter[str] = collections.Counter()
        self.counts = Counts()
        self.geometry: dict[str, array[float]] = {}
        faults: list[str] = []
        line_of_id: dict[str, int] = {}
        stated = 0
        for file_index, file in enumerate(self.files):
            for number, offset, line in _lines(file):
                try:
                    stated += self._add(file_index, number, offset, line, split, line_of_id)
                except UserError as error:
                    faults.append(f"{file}:{number}: {error}")
        if faults:
            more = f" and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
            raise UserError(f"faulty lines: {'; '.join(faults[:_FAULTS_SHOWN])}{more}")
        if not self._line:
            raise UserError(
                f"{', '.join(map(str, self.files))}: no annotated pair to pack"
                + (f" ({sum(self.skipped.values())} lines have an error)" if self.skipped else "")
            )
        if 0 < stated < len(self._line):
            raise UserError(
                f"only {stated} of {len(self._line)} lines state a split: complete the column, or "
                "name the split of the others with --split"
            )
        self.split_rule = (
            f"--split={split} where a line states none" if split
            else "as the lines state" if stated
            else f"{'/'.join(f'{share:g}' for share in shares)} by a hash of the people or videos, "
            + ("and of the faces that are alike" if faces else "or of the real's content")
        )  # fmt: skip
        if stated and faces:
            raise UserError(
                "the splits are stated, so --by_face would change nothing: leave it out"
            )
        self.reals_without_video = 0 if stated or faces else self._groups.unnamed_reals
        if not stated:
            if faces:
                self._groups.join_faces(faces(self._pictures()))
            self._splits = self._groups.splits(len(self._reals), shares)
        self.total = sum(1 for size in (*self._real_bytes, *self._bytes) if size >= 0)

    def _add(
        self,
        file_index: int,
        number: int,
        offset: int,
        line: bytes,
        split: str | None,
        line_of_id: dict[str, int],
    ) -> int:
        """Adds a line; returns 1 when its split is stated."""
        pair = parse_line(line, self.files[file_index])
        if isinstance(pair, str):
            self.skipped[pair] += 1
            return 0
        if pair.id in line_of_id:
            raise UserError(
                f"id {pair.id!r} was taken at {self.where(line_of_id[pair.id])}; pack files whose ids "
                "clash into sets of their own, training mixes sets"
            )
        sizes = [_size(path) for path in (pair.fake, pair.mask) if path is not None]
        # A fake whose real is not known is a family by itself; no path has a null byte.
        name = str(pair.real.resolve()) if pair.real else f"\0{pair.id}"
        real = self._reals.setdefault(name, len(self._reals))
        if real == len(self._real_bytes):
            self._real_bytes.append(_size(pair.real) if pair.real else -1)
        line_of_id[pair.id] = len(self._line)
        self._file.append(file_index)
        self._offset.append(offset)
        self._line.append(number)
        self._real.append(real)
        self._bytes.append(sum(sizes) if pair.fake else -1)
        stated = pair.split or split
        if stated:
            chosen = SPLITS.index(stated)
            if self._splits.setdefault(real, chosen) != chosen:
                raise UserError(
                    f"its real {pair.real} is in split {SPLITS[self._splits[real]]!r} by an "
                    f"earlier line and in {stated!r} by this one: a face must stay in one split"
                )
            return 1
        self._groups.join(real, pair)
        return 0

    def _pictures(self) -> list[Path]:
        """The picture that stands for each real: itself, or the fake where it is not known."""
        pictures = [Path(name) for name in self._reals]
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(file.open("rb")) for file in self.files]
            for line, real in enumerate(self._real):
                if self._real_bytes[real] < 0:
                    pair = self.annotation(line, streams)[0]
                    assert pair.fake is not None
                    pictures[real] = pair.fake
        return pictures

    def shards(self, progress: Callable[[], None]) -> dict[str, list[Shard]]:
        """The shards of each split that has records; `progress` is called after each record."""
        order = np.argsort(np.frombuffer(self._real, np.int64), kind="stable")
        real_of_line = np.frombuffer(self._real, np.int64)[order]
        bounds = np.searchsorted(real_of_line, np.arange(len(self._reals) + 1))
        parts: dict[str, list[list[int]]] = {name: [] for name in SPLITS}
        room = dict.fromkeys(SPLITS, 0)
        for real in range(len(self._reals)):
            split = SPLITS[self._splits[real]]
            lines = order[bounds[real] : bounds[real + 1]]
            size = max(self._real_bytes[real], 0) + sum(max(self._bytes[line], 0) for line in lines)
            if not parts[split] or room[split] + size > SHARD_BYTES:
                parts[split].append([])
                room[split] = 0
            parts[split][-1].append(real)
            room[split] += size
        shards: dict[str, list[Shard]] = {}
        for split, groups in parts.items():
            rows = _Rows()
            for reals in groups:
                shard = _WriteShard(self, split, reals, order, bounds, rows, progress)
                shards.setdefault(split, []).append(shard)
        return shards

    def annotation(self, line: int, streams: Sequence[BinaryIO]) -> tuple[Annotation, str]:
        """Reads a line of the plan again from the open files; gives it with `file:line`."""
        stream = streams[self._file[line]]
        stream.seek(self._offset[line])
        try:
            pair = parse_line(stream.readline(), self.files[self._file[line]])
        except UserError as error:
            raise UserError(f"{self.where(line)}: {error}") from error
        if isinstance(pair, str):
            raise UserError(f"{self.where(line)}: the file changed while packing; start again")
        return pair, self.where(line)

    def where(self, line: int) -> str:
        """A line of the plan as `file:number`."""
        return f"{self.files[self._file[line]]}:{self._line[line]}"


class _Rows:
    """Counts the rows of a split over its shards."""

    def __init__(self) -> None:
        self.count = 0


@dataclasses.dataclass
class _WriteShard:
    """Yields the records of one shard: each real, then the fakes that were made from it."""

    plan: PackPlan
    split: str
    reals: list[int]
    order: np.ndarray
    bounds: np.ndarray
    rows: _Rows
    progress: Callable[[], None]

    def __call__(self) -> Iterator[tuple[Record, int]]:
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(file.open("rb")) for file in self.plan.files]
            for real in self.reals:
                lines = self.order[self.bounds[real] : self.bounds[real + 1]]
                pairs = [self.plan.annotation(int(line), streams) for line in lines]
                row, name = -1, ""
                if pairs[0][0].real is not None:
                    record = real_record(pairs)
                    yield self._count(record, [pair for pair, _ in pairs], pairs[0][0].real), -1
                    row, name = self.rows.count - 1, record.id
                for pair, where in pairs:
                    if pair.fake is not None:
                        record = fake_record(pair, where, name)
                        yield self._count(record, [pair], pair.fake, pair.source), row

    def _count(
        self, record: Record, pairs: Sequence[Annotation], path: Path, source: str = ""
    ) -> Record:
        geometry = face_geometry.of_record(pairs, path, record)
        self.plan.geometry.setdefault(self.split, array("f")).extend(geometry)
        self.plan.counts.add(self.split, record, source)
        self.rows.count += 1
        self.progress()
        return record


def _lines(file: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yields (line number, offset, line) of the lines that are not blank."""
    if not file.is_file():
        raise UserError(
            f"{file} does not exist: name a file that `python -m launch.annotate` wrote"
        )
    offset = 0
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield number, offset, line
            offset += len(line)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error


def pack(
    files: Sequence[Path],
    out: Path,
    *,
    split: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    shares: Sequence[float] = SHARES,
    faces: Callable[[list[Path]], Sequence[int]] | None = None,
) -> dict[str, Any]:
    """Packs annotation files into a new folder and returns its data card.

    The set is built aside and renamed when it is complete, so `out` is never half-written.

    Args:
        files: annotation files (JSON lines).
        out: the packed set's folder; missing or empty, or a packed set with `overwrite`.
        split: split of the lines that state none.
        overwrite: replaces a packed set that is already there.
        progress: called with (records written, records in all).
        shares: of train, validation and test in per cent, where no line states a split.
        faces: groups pictures by the face that they show, as `faces.identity.group_by_face`; without it
            pictures whose video is not named are told apart by their content alone.

    Raises:
        UserError: `out` is taken, or see `PackPlan`.
    """
    _check_free(out, overwrite)
    plan = PackPlan(files, split, shares, faces)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, plan.total)

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error})") from error
    try:
        (aside / "work").mkdir()
        built = write_packed_set(aside / "work", plan.shards(step))
        face_geometry.write(built, plan.geometry)
        card = write_card(
            built, plan.counts, files=files, skipped=plan.skipped,
            split_rule=plan.split_rule, reals_without_video=plan.reals_without_video,
        )  # fmt: skip
        if out.exists():
            out.rename(aside / "old")
        built.rename(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error})") from error
    finally:
        if (aside / "old").exists() and not out.exists():
            (aside / "old").rename(out)
        shutil.rmtree(aside, ignore_errors=True)
    return card


def _check_free(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not is_packed_set(out):
        raise UserError(f"{out} exists and is not a packed set: name another --out")
    if not overwrite:
        raise UserError(f"{out} is a packed set already: name another --out, or give --overwrite")
