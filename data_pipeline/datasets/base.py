"""The record that every data set gives, and the layout table by which adapters find their videos.

A data set is read as it lies on disk: videos, folders of extracted frames, or single pictures.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from data_pipeline.core.files import safe_path
from data_pipeline.core.frame_numbers import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    FaceFiles,
    FaceKey,
    entries,
    faces_in,
    first_faces,
    is_picture,
    pictures,
    swap_folder,
)
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import FAKE, REAL

#: `method` of every real video.
REAL_METHOD: Final = "real"
#: Labels as the sets write them, in lower case.
_LABELS: Final = {"real": REAL, "0": REAL, "false": REAL, "fake": FAKE, "1": FAKE, "true": FAKE}
#: Suffixes of tables, texts and arrays that lie beside videos and pictures.
_BESIDE: Final = ("", ".csv", ".tsv", ".json", ".jsonl", ".txt", ".md", ".npy", ".ini", ".db")


@dataclass(frozen=True)
class Video:
    """One video of a data set.

    Attributes:
      dataset: name of the set, as DeepfakeBench spells it where it has it.
      group: folder of the set that the video belongs to, such as `original_sequences/youtube/c23`;
        its crops come to lie at `<dataset>/<group>/frames/<name>/<frame>.png`.
      name: id, unique in its group and one path component long.
      path: the video file, the folder of its frames, or the one picture that stands for it.
      label: 0 real, 1 fake.
      method: how it was forged; `real` for a real video.
      bench_label: its label in DeepfakeBench's JSON, such as `FF-DF`.
      split: `train`, `validation`, `test`, or "" where the set has no official split.
      real: `key` of the real video that a fake was made from, "" where it is not known.
      compression: `raw`, `c23` or `c40` for the FaceForensics++ family, otherwise "".
      cropped: its frames are face crops already and are taken as they are.
      frames: the pictures of a cropped video by frame number, where they are not simply those of the
        folder `path`.
      masks: its forgery masks, likewise.
      faces: instead of `frames`, where there are several faces of a frame or positions for numbers.
    """

    dataset: str
    group: str
    name: str
    path: Path
    label: int
    method: str
    bench_label: str
    split: str = ""
    real: str = ""
    compression: str = ""
    cropped: bool = False
    frames: Mapping[int, Path] = field(default_factory=dict)
    masks: Mapping[int, Path] = field(default_factory=dict)
    faces: FaceFiles | None = None

    @property
    def key(self) -> str:
        """`<dataset>/<group>/<name>`, unique in a collection."""
        return f"{self.dataset}/{self.group}/{self.name}"


@dataclass(frozen=True)
class Collection:
    """The videos that an adapter finds.

    Attributes:
      videos: in a fixed order.
      expected: (set, method) -> videos that the full set has, where that is known; the method of
        reals is `real`.
      left_out: videos that were found and not taken, counted by reason.
      notes: sentences for the user: what is missing and what follows from that.
    """

    videos: tuple[Video, ...]
    expected: Mapping[tuple[str, str], int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def collect(
    videos: Iterable[Video],
    expected: Mapping[tuple[str, str], int] | None = None,
    left_out: Mapping[str, int] | None = None,
    notes: Iterable[str] = (),
) -> Collection:
    """Orders and checks the videos of a set.

    A fake whose real is not there, or is in another split, loses the reference: a face that is in
    two splits would make the test untrue.

    Raises:
      UserError: two videos have the same key, or a name leads out of the folder that it is to lie in.
    """
    ordered = sorted(map(_named, videos), key=lambda video: video.key)
    keys = Counter(video.key for video in ordered)
    twice = [video for video in ordered if keys[video.key] > 1]
    if twice:
        paths = " and ".join(str(video.path) for video in twice[:2])
        raise UserError(f"{paths} would both be '{twice[0].key}'; rename or remove one of them")
    splits = {video.key: video.split for video in ordered if video.label == REAL}
    crossing = [v for v in ordered if v.real in splits and splits[v.real] != v.split]
    left_out = {**(left_out or {}), **_passed_over(ordered)}
    checked = (v if splits.get(v.real) == v.split else replace(v, real="") for v in ordered)
    if crossing:
        note = f"{len(crossing)} fakes are in another split than their real; they stand alone"
        notes = (*notes, note)
    return Collection(tuple(checked), expected or {}, left_out, tuple(notes))


def _passed_over(videos: Iterable[Video]) -> Counter[str]:
    """Counts the files beside the videos that are not read, by their suffix."""
    return Counter(
        f"files with the suffix {suffix}, which are not read here"
        for folder in {video.path.parent for video in videos if not video.cropped}
        for path in entries(folder)
        if (suffix := path.suffix.lower()) not in (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES, *_BESIDE)
        and path.is_file()
    )


def _named(video: Video) -> Video:
    """The video by names that its crops can be written under."""
    record = str(video.path)
    dataset = safe_path(video.dataset, record)
    if "/" in dataset or dataset in ("prepare", ".prepared"):  # names of our own files
        raise UserError(f"{record}: a data set cannot be called {video.dataset!r}; rename it")
    return replace(
        video,
        dataset=dataset,
        group=safe_path(video.group, record),
        name=safe_path(video.name, record),
        method=safe_path(video.method, record),
        real=safe_path(video.real, record) if video.real else "",
    )


class VideoEntry(NamedTuple):
    """A video as it lies in a folder: its name, its path, and whether it is face crops already."""

    name: str
    path: Path
    cropped: bool


def media(folder: Path) -> list[VideoEntry]:
    """The videos that belong to a folder.

    They lie in the folder itself or in its `videos`, as folders of whole frames in its `images`, or
    as DeepfakeBench's crops in its `frames`. The first of these that has any is taken.

    Raises:
      UserError: two video files have one name.
    """
    for directory in (folder / "videos", folder):
        files = [path for path in entries(directory) if path.suffix.lower() in VIDEO_SUFFIXES]
        if files:
            name, count = Counter(path.stem for path in files).most_common(1)[0]
            if count > 1:
                raise UserError(f"{directory} has two videos called '{name}'; remove one of them")
            return [VideoEntry(path.stem, path, False) for path in files]
    for directory, cropped in ((folder / "images", False), (folder / "frames", True)):
        folders = [path for path in entries(directory) if path.is_dir()]
        if folders:
            return [VideoEntry(path.name, path, cropped) for path in folders]
    return []


def picture_folders(folder: Path) -> Iterator[VideoEntry]:
    """Every folder at or under `folder` that holds pictures itself: sequences of face crops."""
    for directory in _with_pictures(folder):
        yield VideoEntry(
            "_".join(directory.relative_to(folder).parts) or folder.name, directory, True
        )


def _with_pictures(folder: Path) -> Iterator[Path]:
    inside = entries(folder)
    if any(is_picture(path) for path in inside):
        yield folder
    for path in inside:
        if path.is_dir():
            yield from _with_pictures(path)


@dataclass(frozen=True)
class LayoutFolder:
    """A row of a data set's layout: a folder whose videos are alike.

    Attributes:
      group: the folder, below the root; see `Video`, as for what has the same name there.
      bench_label: in DeepfakeBench's JSON.
      split: of all of them, where the folder says it.
      method: of its fakes; `real` where they are reals.
      reals: the group of the reals that its fakes were made from; "" where they are not in the set.
      real_of: the name of a fake's real by the fake's name; "" where it is not known.
      items: lists the videos of a folder.
    """

    group: str
    bench_label: str
    split: str = ""
    method: str = REAL_METHOD
    reals: str = ""
    real_of: Callable[[str], str] = lambda name: ""
    items: Callable[[Path], Iterable[VideoEntry]] = media


def scan_layout(
    root: Path, dataset: str, layout: Iterable[LayoutFolder], compression: str = ""
) -> Iterator[Video]:
    """The videos of a data set by the table of its folders; a folder that is not there has none."""
    for row in layout:
        fake = row.method != REAL_METHOD
        for name, path, cropped in row.items(root / row.group):
            real = row.real_of(name) if row.reals else ""
            yield Video(
                dataset=dataset,
                group=row.group,
                name=name,
                path=path,
                label=FAKE if fake else REAL,
                method=row.method,
                bench_label=row.bench_label,
                split=row.split,
                real=f"{dataset}/{row.reals}/{real}" if real else "",
                compression=compression,
                cropped=cropped,
            )


def real_name(pattern: str, real: str) -> Callable[[str], str]:
    r"""A rule for `LayoutFolder.real_of`: the name of the real as a template of the groups of the fake's name.

    Args:
      pattern: a regular expression that the whole name has to match; other names have no real.
      real: the template, such as `\1_\2`.
    """
    compiled = re.compile(pattern)

    def real_of(fake: str) -> str:
        match = compiled.fullmatch(fake)
        return match.expand(real) if match else ""

    return real_of


def compression_folder(root: Path, folder: str, compression: str) -> str:
    """The group of a compression: `<folder>/<compression>`, or `c0`, as raw was called at first."""
    old = compression == "raw" and not (root / folder / "raw").is_dir()
    return f"{folder}/c0" if old and (root / folder / "c0").is_dir() else f"{folder}/{compression}"


def crops(video: Video) -> tuple[Mapping[int, Path], Mapping[int, Path]]:
    """The frames and the masks of a cropped video, by frame number; of several faces the first.

    Those of the record, else the picture that the path is or the pictures of the folder that it is,
    with the masks of a fake at the same path under `masks`.
    """
    faces, masks = faces_of(video)
    return first_faces(faces), masks


def faces_of(video: Video) -> tuple[FaceFiles, Mapping[int, Path]]:
    """As `crops`, with all faces of a frame."""
    if video.faces:
        return video.faces, video.masks
    if video.frames:
        return FaceFiles({FaceKey(n): path for n, path in video.frames.items()}), video.masks
    if is_picture(video.path):
        return FaceFiles({FaceKey(0): video.path}), {}
    masks = swap_folder(video.path, "masks")
    has_masks = video.label == FAKE and masks != video.path
    return faces_in(video.path), pictures(masks) if has_masks else {}


def read_label(value: Any, where: str) -> int:
    """0 or 1 from a label as data sets write it: real/fake in any case, 0/1, true/false.

    Raises:
      UserError: it is none of these; `where` names the record.
    """
    label = plain_label(value)
    if label is None:
        raise UserError(f"{where}: the label {value!r} is neither real nor fake, nor 0 or 1")
    return label


def plain_label(value: Any) -> int | None:
    """As `read_label`; None for any other label."""
    return _LABELS.get(str(value).strip().lower())


def require_folder(root: Path, dataset: str, *inside: str) -> None:
    """Raises UserError where `root` is not a folder or has none of the folders `inside`."""
    if not root.is_dir():
        raise UserError(f"--root={root}: there is no such folder")
    if inside and not any((root / name).is_dir() for name in inside):
        raise UserError(f"--root={root} does not look like {dataset}: it has no {inside[0]}/")
