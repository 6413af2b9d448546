"""DeepfakeBench's JSON (Yan et al., NeurIPS 2023), read and written: the format crops lie in.

License of that project: https://github.com/SCLBD/DeepfakeBench (CC BY-NC 4.0; its data sets keep
their own terms). The format, one file a data set:

    {dataset: {label: {split: {video: {"label": label, "frames": [path, ...], "masks": [...]}}}}}

with one more level for the compression in the FaceForensics++ family: split, then compression, in
most files; compression, then split, in some. Paths have either separator and the folders of the
machine that wrote them. Landmarks and masks lie at the frame's path with the last `frames` swapped.

Here `--root` is the folder that the data sets lie in, `--json` the file; either may be left out.
The frames are face crops already and are taken as they are.

Split: as the file says, `val` being `validation`. DeepfakeBench lists some videos under several
splits; they count as test, else validation, so that no test video is trained on.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from data_pipeline.core.frame_numbers import (
    FaceFiles,
    entries,
    faces_by_key,
    first_faces,
    swap_folder,
)
from data_pipeline.core.tables import read_json, split_name
from data_pipeline.datasets import base, celeb_df, dfd, faceforensics, uadfv
from data_pipeline.datasets.base import REAL_METHOD, Collection, Video, collect
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import FAKE, REAL

#: DeepfakeBench's names of splits, from the one that trains to the one that tests.
SPLITS: Final = {"train": "train", "val": "validation", "test": "test"}
_RANK: Final = {"": 0, "train": 1, "validation": 2, "test": 3}
_COMPRESSIONS: Final = ("raw", "c0", "c23", "c40")
_METHODS: Final = {label: name for name, label in faceforensics.METHODS.items()} | {
    "FF-SH": "FaceShifter",
    dfd.FAKE_LABEL: dfd.DATASET,
}
#: The real of a fake, by the start of the label; none of a set that does not say.
_REAL_OF: Final[tuple[tuple[str, Callable[[str], str]], ...]] = (
    ("FF-", faceforensics.real_of),
    ("CelebDF", celeb_df.real_of),
    ("UADFV", uadfv.real_of),
    ("DFDCP", lambda name: name.partition("_")[2]),
)


class _Entry(NamedTuple):
    number: int
    label: str
    split: str
    compression: str
    name: str
    frames: list[str]
    masks: list[str]


def scan(root: Path, compression: str) -> Collection:
    """Finds the videos of one JSON, `root` being the file or a folder with one at its top.

    Raises:
      UserError: there is no JSON or several, it has another structure, a label that is neither real
        nor fake, nothing of this compression, two videos would be one file, or none of its frames
        is under the root.
    """
    file = root if root.is_file() else _only_json(root)
    return read(file, file.parent, compression)


def read(file: Path, root: Path, compression: str) -> Collection:
    """Finds the videos of `file` whose frames lie under `root`; see `scan`."""
    content = read_json(file)
    if not isinstance(content, dict) or len(content) != 1:
        raise UserError(f"{file} is not a JSON of DeepfakeBench: it must hold exactly one data set")
    dataset, labels = next(iter(content.items()))
    entries_ = [_named(dataset, entry) for entry in _walk(labels, file) if entry.frames]
    wanted = [e for e in entries_ if e.compression in ("", compression)]
    if not wanted:
        has = ", ".join(sorted({entry.compression for entry in entries_})) or "none"
        raise UserError(f"{file}: no video of compression {compression}; it has {has}")
    locate = FrameLocator(root)
    left_out: Counter[str] = Counter()
    notes = []
    videos: dict[tuple[str, str], Video] = {}
    owners: dict[Path, Video] = {}
    listed: dict[tuple[str, str], int] = {}
    several = 0
    for entry in wanted:
        key = (entry.label, entry.name)
        listed[key] = entry.number
        if key in videos:
            several += 1
            if _RANK[entry.split] > _RANK[videos[key].split]:
                videos[key] = replace(videos[key], split=entry.split)
            continue
        faces = locate.all(entry.frames, left_out)
        if faces.files:
            masks = first_faces(locate.all(entry.masks, left_out))
            video = _video(dataset, entry, faces, masks)
            # Under a root that lies too deep, paths that differ above it would be one file.
            first = next(iter(faces.files.values()))
            other = owners.setdefault(first, video)
            if other is not video:
                raise UserError(
                    f"{file}: '{other.name}' of '{other.bench_label}' and '{entry.name}' of "
                    f"'{entry.label}' would both be {first}; give the folder that the data sets "
                    "lie in as --root"
                )
            videos[key] = video
        else:
            left_out["video without any frame on disk"] += 1
    if not videos:
        raise UserError(
            f"{file}: none of its frames, such as {wanted[0].frames[0]!r}, is under {root}; "
            "give the folder that the data sets lie in as --root"
        )
    if several:
        notes.append(
            f"{several} videos are listed under several splits; they count as test, else validation"
        )
    if any(label == dfd.FAKE_LABEL for label, _ in videos):
        notes.append(dfd.UNPAIRED)
    expected = Counter((dataset, _method(dataset, label, n)) for (label, _), n in listed.items())
    return collect(_with_reals(videos), expected, left_out, notes)


def document(videos: Iterable[tuple[Video, list[str], list[str]]]) -> dict[str, Any]:
    """DeepfakeBench's JSON of one data set.

    Args:
      videos: each with the paths of its frames and of its masks. A video without a split is listed
        under `test`.
    """
    content: dict[str, Any] = {}
    for video, frames, masks in videos:
        splits = content.setdefault(video.dataset, {}).setdefault(
            video.bench_label, {name: {} for name in SPLITS}
        )
        split = next((name for name, ours in SPLITS.items() if ours == video.split), "test")
        place = splits[split]
        if video.compression:
            for other in splits.values():  # the reader asks every split for the compression
                other.setdefault(video.compression, {})
            place = place[video.compression]
        # Methods of one label may have a video of the same name; DeepfakeBench reads only the paths.
        name = video.name if video.name not in place else f"{video.method}_{video.name}"
        place[name] = {"label": video.bench_label, "frames": frames}
        if masks:
            place[name]["masks"] = masks
    return content


def read_label(label: Any, file: Path) -> int:
    """0 or 1 from a label such as 1, `FF-real` or `DFDCP_FakeA`; UserError where it is neither."""
    number = _number(label)
    if number is None:
        raise UserError(
            f"{file}: the label {label!r} is neither real nor fake; it may be 0 or 1, end in `real` or "
            f"`fake` behind - or _, or be one of {', '.join(_METHODS)}"
        )
    return number


def _number(label: Any) -> int | None:
    return base.plain_label(label) if (named := _by_name(str(label))) is None else named


def _by_name(label: str) -> int | None:
    word = re.split(r"[-_]", label)[-1].lower()
    if word == "real":
        return REAL
    return FAKE if label in _METHODS or word.startswith("fake") else None


def _walk(labels: Any, file: Path) -> Iterator[_Entry]:
    """Every video of a data set, whatever the order of split and compression."""
    if not isinstance(labels, dict):
        raise UserError(f"{file} is not a JSON of DeepfakeBench: a data set must hold labels")
    for label, content in labels.items():
        yield from _below(content, file, label, "", "", "")


def _below(
    node: Any, file: Path, label: str, split: str, compression: str, name: str
) -> Iterator[_Entry]:
    if not isinstance(node, dict):
        raise UserError(f"{file}: '{label}' holds a {type(node).__name__} where a video should be")
    if "frames" in node:
        frames, masks = node["frames"], node.get("masks") or []
        if not _is_list(frames) or not _is_list(masks):
            raise UserError(f"{file}: the frames of '{name}' are not a list of paths")
        # A folder's name may stand where the label should; then the video's own says what it is.
        stated = label if node.get("label") is None else node["label"]
        number = read_label(stated, file)
        if _number(label) not in (None, number):
            raise UserError(f"{file}: '{name}' is labeled '{stated}' under '{label}'")
        # In some files a video stands where the videos of a split should; its folder names it.
        name = name or (PurePosixPath(_slashes(frames[0])).parent.name if frames else label)
        yield _Entry(number, label, split, compression, name, frames, masks)
        return
    for key, child in node.items():
        if not split and (stated := split_name(key)):
            yield from _below(child, file, label, stated, compression, "")
        elif not compression and key in _COMPRESSIONS:
            level = "raw" if key == "c0" else key
            yield from _below(child, file, label, split, level, "")
        elif not name:
            yield from _below(child, file, label, split, compression, key)
        else:
            raise UserError(f"{file}: '{name}' under '{label}' has no frames")


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _slashes(path: str) -> str:
    return path.replace("\\", "/")


def _parts(path: str) -> list[str]:
    return [part for part in _slashes(path).split("/") if part not in ("", ".")]


class FrameLocator:
    """Finds files of a JSON under a root, without the leading folders of the machine it is from."""

    def __init__(self, root: Path):
        self._root = root
        self._dropped = 0

    def all(self, names: Iterable[str], left_out: Counter[str]) -> FaceFiles:
        """The files by face key; counts those that are outside the root or not there."""
        files: dict[str, Path | None] = {}
        for name in sorted(names, key=_slashes):
            parts, path = _parts(name), self.find(name)
            if path is None:
                left_out["frame outside the root" if ".." in parts else "frame not there"] += 1
            files[parts[-1] if parts else ""] = path
        return faces_by_key(files)

    def find(self, name: str) -> Path | None:
        """The file under the root that a path means; None where it is not there or climbs by `..`."""
        parts = _parts(name)
        if ".." in parts:
            return None
        # What was dropped from one path is most likely what has to be dropped from the next.
        for dropped in (self._dropped, *range(len(parts) - 1)):
            path = self._root.joinpath(*parts[dropped:])
            if dropped < len(parts) and os.path.isfile(path):
                self._dropped = dropped
                return path
        return None


def _video(dataset: str, entry: _Entry, faces: FaceFiles, masks: dict[int, Path]) -> Video:
    label = entry.number
    frames = first_faces(faces)
    return Video(
        dataset=dataset,
        group="/".join(part for part in (entry.label, entry.compression) if part),
        name=entry.name,
        path=next(iter(frames.values())).parent,
        label=label,
        method=_method(dataset, entry.label, label),
        bench_label=entry.label,
        split=entry.split,
        compression=entry.compression,
        cropped=True,
        frames=frames,
        masks=(masks or _beside(frames)) if label == FAKE else {},
        faces=faces,
    )


def _named(dataset: str, entry: _Entry) -> _Entry:
    """The entry with a label that says whether it is real; `Deepfakes` and `1` do not."""
    if _by_name(entry.label) is not None:
        return entry
    plain = entry.label if base.plain_label(entry.label) is None else dataset
    return entry._replace(label=f"{plain}_{'Real' if entry.number == REAL else 'Fake'}")


def _method(dataset: str, label: str, number: int) -> str:
    if number == REAL:
        return REAL_METHOD
    plain = re.sub(r"_fake", "", label, flags=re.IGNORECASE) or dataset
    return _METHODS.get(label, plain)


def _beside(frames: Mapping[int, Path]) -> dict[int, Path]:
    masks = {number: swap_folder(path, "masks") for number, path in frames.items()}
    return {number: path for number, path in masks.items() if os.path.isfile(path)}


def _with_reals(videos: Mapping[tuple[str, str], Video]) -> Iterator[Video]:
    reals = {video.name: video.key for video in videos.values() if video.label == REAL}
    for video in videos.values():
        rule = next((rule for start, rule in _REAL_OF if video.bench_label.startswith(start)), None)
        real = reals.get(rule(video.name), "") if rule and video.label == FAKE else ""
        yield replace(video, real=real)


def _only_json(root: Path) -> Path:
    if not root.is_dir():
        raise UserError(f"--root={root}: there is no such file or folder")
    files = [path for path in entries(root) if path.suffix.lower() == ".json"]
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise UserError(f"--root={root} must hold one JSON (found: {names}); name it with --json")
    return files[0]
