"""The prepared set on disk: one marker file a video, and the tables made from the markers.

Layout of the folder:

    <dataset>/<group>/{frames,landmarks,masks}/<video>/<frame>.{png,npy}   DeepfakeBench's layout
    .prepared/<dataset>/<group>/<video>.json                               the markers
    pairs.csv   <dataset>.json   prepare.json                              tables and settings

A marker is written when its video is done, so a run that was stopped goes on behind it.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from data_pipeline.core.files import inside
from data_pipeline.datasets import deepfakebench
from data_pipeline.datasets.base import Video
from jax_vlffd.errors import UserError, printable
from jax_vlffd.file_writing import atomic_write_text
from jax_vlffd.files import MAX_TEXT, read_json
from jax_vlffd.vocabulary import FAKE, REAL

#: Videos that the summary names, of those that failed.
_FAILURES_SHOWN: Final = 10
#: Columns of `pairs.csv`; `real_frame` follows where frames of a fake have other numbers than those of
#: its real, and `mask` where the data set has masks.
COLUMNS: Final = ("real", "fake", "dataset", "method", "video", "frame", "split")


def folder_of(video: Video, kind: str) -> str:
    """The folder of a video's `frames`, `landmarks` or `masks`, relative to the prepared set."""
    return f"{video.dataset}/{video.group}/{kind}/{video.name}"


def crop_path(video: Video, number: int, suffix: str = ".png", rank: int = 0) -> str:
    """The path of a crop; faces after the largest (`rank` 0) have their rank behind the number."""
    return f"{folder_of(video, 'frames')}/{number:03d}{f'_{rank}' if rank else ''}{suffix}"


class PreparedFrame(NamedTuple):
    """One crop; paths are relative to the folder of the prepared set, with slashes.

    Attributes:
      number: of the frame in its video.
      image: the crop.
      real: the same crop of the real video, "" for a real or where there is none.
      mask: the data set's own forgery mask, or "".
      real_number: of the real's frame; -1 where it is `number`, or there is no real.
    """

    number: int
    image: str
    real: str = ""
    mask: str = ""
    real_number: int = -1


@dataclass
class PreparedVideo:
    """What came of one video.

    Attributes:
      key: of the video.
      stamp: of the source as it was read; another stamp means that the video has changed.
      failed: `code: message` where nothing could be read, else "".
      indices: frame numbers that were asked for.
      frames: the crops.
      skipped: frames without a crop, by reason.
      remarks: what else happened, by kind.
      timed: frames were paired by moment; False of sets that were prepared when numbers alone counted.
    """

    key: str
    stamp: str
    failed: str = ""
    indices: list[int] = field(default_factory=list)
    frames: list[PreparedFrame] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    timed: bool = False


def stamp(video: Video) -> str:
    """A short text that changes when the video's file, or its folder, does."""
    try:
        status = video.path.stat()
    except OSError:
        return "missing"
    size = "" if video.path.is_dir() else str(status.st_size)
    return f"{size}@{status.st_mtime_ns}/{len(video.frames)}/{video.real}"


def load(out: Path, video: Video) -> PreparedVideo | None:
    """The outcome of an earlier run; None where there is none, or the video has changed since."""
    try:
        content = read_json(_marker(out, video), MAX_TEXT)
        outcome = PreparedVideo(**content)
        outcome.frames = [PreparedFrame(*frame) for frame in outcome.frames]
        outcome.skipped, outcome.remarks = Counter(outcome.skipped), Counter(outcome.remarks)
    except (UserError, ValueError, TypeError, KeyError):
        return None
    return outcome if outcome.stamp == stamp(video) else None


def save(out: Path, video: Video, outcome: PreparedVideo) -> None:
    """Writes the marker of a video that is done."""
    atomic_write_text(_marker(out, video), json.dumps(vars(outcome)))


def discard(out: Path, video: Video) -> None:
    """Removes the crops and landmarks of a video that is to be prepared anew."""
    for folder in ("frames", "landmarks"):
        shutil.rmtree(inside(out, folder_of(video, folder)), ignore_errors=True)


def _marker(out: Path, video: Video) -> Path:
    return inside(out, f".prepared/{video.key}.json", str(video.path))


def check_out(out: Path, inputs: Iterable[Path], videos: Iterable[Video]) -> None:
    """Checks that no input would be overwritten.

    Raises:
      UserError: `out` is or holds one of the `inputs`, or a picture or video of the set.
    """
    whole = os.path.realpath(out)
    read = set(inputs)
    for video in videos:
        read.add(video.path)
        for path in (*video.frames.values(), *video.masks.values()):
            read.update((path, path.parent) if path.is_symlink() else (path.parent,))
    for path in sorted(read):
        if Path(os.path.realpath(path)).is_relative_to(whole):
            raise UserError(f"--out={out} holds {path}, which is read: name a folder beside it")


def check_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Notes how a folder is prepared, or compares with how it was begun.

    Raises:
      UserError: it was begun otherwise.
    """
    path = out / "prepare.json"
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is a file; name a folder")
    try:
        if not os.path.lexists(path):
            atomic_write_text(path, json.dumps(settings, indent=2) + "\n")
            return
        before = dict(read_json(path))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); take another --out") from error
    for name, value in settings.items():
        if before.get(name) != value:
            raise UserError(
                f"--out={out} was begun with --{name}={before.get(name)}, not {value}: "
                "take another folder, or remove it"
            )


def write_all(out: Path, videos: Sequence[Video]) -> tuple[dict[str, PreparedVideo], int]:
    """Writes the tables of all markers that are there; returns what came of the videos, and the rows.

    A shard that ends meanwhile may have written fuller tables, which these would replace, so the
    markers are looked at again until none was added.
    """
    before = None
    rows = 0
    while True:
        outcomes = {v.key: outcome for v in videos if (outcome := load(out, v)) is not None}
        if outcomes.keys() == before:
            return outcomes, rows
        rows = write_tables(out, videos, outcomes)
        before = outcomes.keys()


def write_tables(out: Path, videos: Sequence[Video], outcomes: Mapping[str, PreparedVideo]) -> int:
    """Writes `pairs.csv` and DeepfakeBench's JSON files of what is done; returns the rows.

    Every fake is paired with its real's frame. A frame of a real that no fake is paired with has a
    row of its own, with an empty `fake`; a fake without its real has an empty `real`.
    """
    done = [(video, outcomes[video.key]) for video in videos if video.key in outcomes]
    paired = {frame.real for _, outcome in done for frame in outcome.frames if frame.real}
    masks = any(frame.mask for _, outcome in done for frame in outcome.frames)
    shifted = any(
        frame.real and frame.real_number not in (-1, frame.number)
        for _, outcome in done
        for frame in outcome.frames
    )
    columns = [*COLUMNS, *(["real_frame"] if shifted else []), *(["mask"] if masks else [])]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    rows = 0
    for video, outcome in done:
        for frame in outcome.frames:
            if video.label == REAL and frame.image in paired:
                continue
            fake = video.label == FAKE
            row = {
                "real": frame.real if fake else frame.image,
                "fake": frame.image if fake else "",
                "dataset": video.dataset,
                "method": video.method,
                "video": video.name,
                "frame": frame.number,
                "split": video.split,
                "real_frame": _real_number(frame),
                "mask": frame.mask,
            }
            writer.writerow(row)
            rows += 1
    atomic_write_text(out / "pairs.csv", text.getvalue())
    listed = (
        (
            video,
            [frame.image for frame in outcome.frames],
            [f.mask for f in outcome.frames if f.mask],
        )
        for video, outcome in done
        if outcome.frames
    )
    for dataset, content in deepfakebench.document(listed).items():
        atomic_write_text(inside(out, f"{dataset}.json"), json.dumps({dataset: content}))
    return rows


def _real_number(frame: PreparedFrame) -> int | str:
    if not frame.real:
        return ""
    return frame.number if frame.real_number < 0 else frame.real_number


def summary(
    videos: Sequence[Video],
    outcomes: Mapping[str, PreparedVideo],
    expected: Mapping[tuple[str, str], int],
) -> str:
    """The summary: videos expected, found and done by set and method, frames, reasons, failures."""
    head = ("data set", "method", "expected", "found", "done", "failed", "frames", "skipped")
    table = [head]
    named = {(video.dataset, video.method) for video in videos}
    for dataset, method in sorted(
        named | set(expected), key=lambda k: (k[0], k[1] != "real", k[1])
    ):
        own = [v for v in videos if (v.dataset, v.method) == (dataset, method)]
        done = [outcomes[video.key] for video in own if video.key in outcomes]
        table.append(
            (
                dataset,
                method,
                str(expected.get((dataset, method), "?")),
                str(len(own)),
                str(sum(not outcome.failed for outcome in done)),
                str(sum(bool(outcome.failed) for outcome in done)),
                str(sum(len(outcome.frames) for outcome in done)),
                str(sum(outcome.skipped.total() for outcome in done)),
            )
        )
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    lines = []
    for row in table:
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    for title, counts in reasons(outcomes.values()).items():
        counted = ", ".join(f"{name} {count}" for name, count in counts.most_common())
        lines.append(f"{title}: {counted or 'none'}")
    failed = [outcome for outcome in outcomes.values() if outcome.failed]
    lines += [f"failed: {outcome.failed}" for outcome in failed[:_FAILURES_SHOWN]]
    if len(failed) > _FAILURES_SHOWN:
        lines.append(f"and {len(failed) - _FAILURES_SHOWN} more: see `failed` in .prepared/")
    return "\n".join(map(printable, lines))


def reasons(outcomes: Iterable[PreparedVideo]) -> dict[str, Counter[str]]:
    """Counts why frames were skipped, why videos failed, and what else happened."""
    skipped, failed, remarks = Counter[str](), Counter[str](), Counter[str]()
    for outcome in outcomes:
        skipped.update(outcome.skipped)
        remarks.update(outcome.remarks)
        if outcome.failed:
            failed[outcome.failed.split(":", 1)[0]] += 1
    return {"frames skipped": skipped, "videos failed": failed, "remarks": remarks}
