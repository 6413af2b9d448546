"""Annotation lines into a packed set: every fake once, every real once, people kept in one split.

Lines are read twice: first all of them, keeping a few integers each (which file, which offset,
which real, how many bytes), then once more in the order of writing. Ids and reals are kept as digests,
and what is written of each record goes to the disk at once, so ten million lines need no more memory than
their integers. A real and its fakes always lie in one shard.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from data_pipeline.core.files import folder_aside
from data_pipeline.packed import face_geometry
from data_pipeline.packed.annotation import Annotation, parse_line
from data_pipeline.packed.card import RecordCounts, write_card
from data_pipeline.packed.numbering import Digests, number, repeated
from data_pipeline.packed.pair_records import fake_record, real_record
from data_pipeline.packed.reader import is_packed_set
from data_pipeline.packed.record import SPLITS, Record
from data_pipeline.packed.remote import CHECKSUMS
from data_pipeline.packed.splits import SHARES, Groups
from data_pipeline.packed.writer import Shard, write_packed_set
from jax_vlffd.errors import UserError
from jax_vlffd.files import read_text
from jax_vlffd.jsonl import MAX_LINE

#: A shard is closed once it holds so many bytes: images, and captions and the like of each record.
SHARD_BYTES: Final = 256 << 20
_RECORD_BYTES: Final = 1 << 10

_FAULTS_SHOWN: Final = 3
#: What the size of a picture is kept as at most.
_MAX_INT: Final = 2**31 - 1


class PackPlan:
    """What will be written: read once from the annotation files, then turned into shards.

    Attributes:
        files: the annotation files.
        total: records that will be written.
        skipped: pairs that were never annotated, counted by their error's code.
        split_rule: how the splits were made, for the data card.
        counts: what has been written so far.
        outside: pictures and masks that lie outside the folders of their annotation files.
        outside_folder: the folder that all of those lie below.
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
        self._file, self._offset, self._line = array("H"), array("q"), array("I")
        self._bytes, self._real_bytes = array("i"), array("i")  # -1 where a line has none
        self._stated = array("b")  # -1 likewise
        self._ids, self._reals = Digests(1), Digests(2)
        self._groups = Groups()
        self.skipped: collections.Counter[str] = collections.Counter()
        self.counts = RecordCounts()
        self.outside, self.outside_folder = 0, ""
        faults: list[str] = []
        for file_index, file in enumerate(self.files):
            for line_number, offset, line in _lines(file):
                try:
                    self._add(file_index, line_number, offset, line, split)
                except UserError as error:
                    faults.append(f"{file}:{line_number}: {error}")
        faults += self._repeated()
        del self._ids
        self._real_of_line, self._first_lines = number(self._reals.columns())
        del self._reals
        faults += self._torn()
        if faults:
            more = f" and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
            raise UserError(f"faulty lines: {'; '.join(faults[:_FAULTS_SHOWN])}{more}")
        if not self._line:
            raise UserError(
                f"{', '.join(map(str, self.files))}: no annotated pair to pack"
                + (f" ({sum(self.skipped.values())} lines have an error)" if self.skipped else "")
            )
        stated = len(self._stated) - self._stated.count(-1)
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
        self._splits = np.frombuffer(self._stated, np.int8)[self._first_lines]
        if not stated:
            with self.open() as streams:

                def picture(line: int) -> Path:
                    pair = self.annotation(line, streams)[0]
                    path = pair.real or pair.fake
                    assert path is not None
                    return path

                grouped = faces([picture(int(at)) for at in self._first_lines]) if faces else ()
                self._splits = self._groups.splits(
                    self._real_of_line, self._first_lines, picture, shares, grouped
                )
        self.reals_without_video = 0 if stated or faces else self._groups.unnamed_reals
        self._real_size = np.frombuffer(self._real_bytes, np.int32)[self._first_lines]
        fakes = np.frombuffer(self._bytes, np.int32) >= 0
        self.total = int(np.count_nonzero(self._real_size >= 0) + np.count_nonzero(fakes))

    def _add(
        self,
        file_index: int,
        line_number: int,
        offset: int,
        line: bytes,
        split: str | None,
    ) -> None:
        """Adds a line."""
        pair = parse_line(line, self.files[file_index])
        if isinstance(pair, str):
            self.skipped[pair] += 1
            return
        self._note_outside(file_index, filter(None, (pair.real, pair.fake, pair.mask)))
        sizes = [_size(path) for path in (pair.fake, pair.mask) if path is not None]
        real_size = _size(pair.real) if pair.real else -1
        stated = pair.split or split
        if not stated:
            self._groups.add(pair)
        # A fake whose real is not known is a family by itself; no path has a null byte.
        self._reals.add(str(pair.real.resolve()) if pair.real else f"\0{pair.id}")
        self._real_bytes.append(min(real_size, _MAX_INT))
        self._ids.add(pair.id)
        self._file.append(file_index)
        self._offset.append(offset)
        self._line.append(line_number)
        self._bytes.append(min(sum(sizes), _MAX_INT) if pair.fake else -1)
        self._stated.append(SPLITS.index(stated) if stated else -1)

    def _note_outside(self, file_index: int, paths: Iterable[Path]) -> None:
        home = os.path.realpath(self.files[file_index].parent)
        for path in paths:
            place = os.path.dirname(os.path.realpath(path))
            if os.path.commonpath([home, place]) != home:
                self.outside += 1
                self.outside_folder = os.path.commonpath([self.outside_folder or place, place])

    def _repeated(self) -> list[str]:
        """The faults of lines whose id an earlier line has."""
        first: dict[str, int] = {}
        faults = []
        with self.open() as streams:
            for line in repeated(*self._ids.columns()).tolist():
                name = self.annotation(line, streams)[0].id
                if first.setdefault(name, line) != line:
                    faults.append(
                        f"{self.where(line)}: id {name!r} was taken at {self.where(first[name])}; pack files "
                        "whose ids clash into sets of their own, training mixes sets"
                    )
        return faults

    def _torn(self) -> list[str]:
        """The faults of lines that state another split than the first line of their real."""
        stated = np.frombuffer(self._stated, np.int8)
        of_real = stated[self._first_lines]
        torn = (stated != of_real[self._real_of_line]) & (stated >= 0)
        torn &= of_real[self._real_of_line] >= 0
        with self.open() as streams:
            return [
                f"{self.where(line)}: its real {self.annotation(line, streams)[0].real} is in split "
                f"{SPLITS[of_real[self._real_of_line[line]]]!r} by an earlier line and in "
                f"{SPLITS[stated[line]]!r} by this one: a face must stay in one split"
                for line in np.flatnonzero(torn).tolist()
            ]

    @contextlib.contextmanager
    def open(self) -> Iterator[list[BinaryIO]]:
        """The annotation files, opened."""
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(file.open("rb")) for file in self.files]

    def shards(
        self, geometry: face_geometry.Rows, progress: Callable[[], None]
    ) -> dict[str, list[Shard]]:
        """The shards of each split that has records.

        Args:
          geometry: takes that of each record that is written.
          progress: is called after each record.
        """
        order = np.argsort(self._real_of_line, kind="stable").astype(np.int32)
        bounds = np.searchsorted(self._real_of_line[order], np.arange(len(self._first_lines) + 1))
        fakes = np.maximum(np.frombuffer(self._bytes, np.int32), 0)[order]
        sizes = np.add.reduceat(fakes, bounds[:-1], dtype=np.int64) + np.maximum(self._real_size, 0)
        sizes += _RECORD_BYTES * (1 + np.diff(bounds))
        shards: dict[str, list[Shard]] = {}
        for split, name in enumerate(SPLITS):
            reals = np.flatnonzero(self._splits == split)
            if not len(reals):
                continue
            starts, room = [0], 0
            for at, size in enumerate(sizes[reals].tolist()):
                if at and room + size > SHARD_BYTES:
                    starts.append(at)
                    room = 0
                room += size
            rows = _Rows()
            shards[name] = [
                _WriteShard(self, name, part, order, bounds, rows, geometry, progress)
                for part in np.split(reals, starts[1:])
            ]
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
    reals: np.ndarray
    order: np.ndarray
    bounds: np.ndarray
    rows: _Rows
    geometry: face_geometry.Rows
    progress: Callable[[], None]

    def __call__(self) -> Iterator[tuple[Record, int]]:
        with self.plan.open() as streams:
            for real in self.reals.tolist():
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
        self.geometry.add(self.split, face_geometry.of_record(pairs, path, record))
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
        for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE + 1), b""), 1):
            if len(line) > MAX_LINE:
                raise UserError(f"{file}:{number}: longer than {MAX_LINE:,} bytes; remove the line")
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
    note: Callable[[str], None] = lambda text: None,
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
        note: called with a remark on the input.

    Raises:
        UserError: `out` is taken, or see `PackPlan`.
    """
    _check_free(out, overwrite)
    plan = PackPlan(files, split, shares, faces)
    if plan.outside:
        note(
            f"note: {plan.outside} pictures and masks lie outside the folders of their annotations, below "
            f"{plan.outside_folder}; look at them before you share the set"
        )
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, plan.total)

    with folder_aside(out) as aside:
        (aside / "work").mkdir()
        geometry = face_geometry.Rows(aside)
        built = write_packed_set(aside / "work", plan.shards(geometry, step))
        geometry.write(built)
        card = write_card(
            built, plan.counts, files=files, skipped=plan.skipped,
            split_rule=plan.split_rule, reals_without_video=plan.reals_without_video,
        )  # fmt: skip
        _check_free(out, overwrite)  # another process may have packed it meanwhile
        if out.exists():
            out.rename(aside / "old")
        built.rename(out)
    return card


def _check_free(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not is_packed_set(out):
        raise UserError(f"{out} exists and is not a packed set: name another --out")
    if not overwrite:
        raise UserError(f"{out} is a packed set already: name another --out, or give --overwrite")
    try:
        sums = read_text(out / CHECKSUMS).splitlines()
    except UserError as error:
        raise UserError(f"{error}: name another --out") from error
    own = {CHECKSUMS, *(line.partition("  ")[2] for line in sums)}
    for path in out.rglob("*"):
        if not path.is_dir() and str(path.relative_to(out)) not in own:
            raise UserError(
                f"{path} is not part of the packed set that --overwrite replaces: move it"
            )
