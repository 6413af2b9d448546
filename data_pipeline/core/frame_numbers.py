"""Frame numbers, and which of several faces, from the names of the pictures of one video."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Final, NamedTuple

#: A number in a name; what else is in it is the same in all pictures of a video.
_NUMBER: Final = re.compile(r"\d{1,18}")
#: Frame and face as `launch.prepare` and others write them: `012.png`, `012_1.png`.
_FACE: Final = re.compile(r"(\d{1,18})(?:_(0|[1-9]\d?))?")


class FaceKey(NamedTuple):
    """Identifies a face crop within its video: frame number, and the rank of its face."""

    number: int
    rank: int = 0


class FaceKeys(NamedTuple):
    """The face keys of some pictures.

    Attributes:
      keys: one a picture, in their order.
      by_name: False where the names hold no frame numbers and the order stands in.
    """

    keys: list[FaceKey]
    by_name: bool = True


def face_keys(names: Sequence[str]) -> FaceKeys:
    """Returns the face keys of the pictures of one video.

    The frame number is the number that differs from picture to picture, the last of several. Behind
    it, `_1` is a further face of the frame. Where the names hold neither, the positions are taken.

    Args:
      names: file names in natural order; folders do not matter.
    """
    stems = [PurePath(name).stem for name in names]
    numbers = [_NUMBER.findall(stem) for stem in stems]
    widths = {len(parts) for parts in numbers}
    faces = [FaceKey(int(m[1]), int(m[2] or 0)) for stem in stems if (m := _FACE.fullmatch(stem))]
    if len(faces) < len(stems) or len(set(faces)) < len(faces):
        faces = []
    if faces and len({key.number for key in faces}) == len(faces):
        return FaceKeys([FaceKey(key.number) for key in faces])
    if faces and len(widths) > 1:  # some names have a frame number alone, so it comes first
        return FaceKeys(faces)
    columns = min(widths, default=0)
    for column in range(1, (columns if len(widths) == 1 else min(columns, 1)) + 1):
        own = [int(parts[-column]) for parts in numbers]
        if len(set(own)) == len(own):
            return FaceKeys([FaceKey(number) for number in own])
    if faces:
        return FaceKeys(faces)
    return FaceKeys([FaceKey(i) for i in range(len(stems))], by_name=False)


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key by which `img9` comes before `img10`."""
    parts = re.split(r"(\d{1,18})", PurePath(name).stem)
    return [(int(part) if part.isdecimal() else -1, part) for part in parts]


VIDEO_SUFFIXES: Final = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"),
    *(".ts", ".mts", ".m2ts", ".flv", ".wmv", ".asf", ".3gp", ".ogv"),
)


IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


class FaceFiles(NamedTuple):
    """The crops of a video.

    Attributes:
      files: by frame number and rank of the face.
      by_name: False where the names hold no frame numbers, so that positions stand in.
    """

    files: Mapping[FaceKey, Path]
    by_name: bool = True


def entries(folder: Path) -> list[Path]:
    """What is in a folder, ordered, without hidden files and macOS's; nothing where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name != "__MACOSX"
    )


def files_below(folder: Path) -> Iterator[Path]:
    """The files in a folder and below it, by `entries`; links to folders are not followed."""
    for path in entries(folder):
        if not path.is_dir():
            yield path
        elif not path.is_symlink():
            yield from files_below(path)


def is_picture(path: Path) -> bool:
    """Whether a path is called like a picture."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def pictures(folder: Path) -> dict[int, Path]:
    """The pictures of a folder by frame number (see `frame_numbers`); of several faces the first."""
    return first_faces(faces_in(folder))


def faces_in(folder: Path) -> FaceFiles:
    """The pictures of a folder by face key."""
    files = [path for path in entries(folder) if is_picture(path)]
    return faces_by_key({path.name: path for path in files})


def faces_by_key(files: Mapping[str, Path | None]) -> FaceFiles:
    """Pictures of one video by face key; those without a path only help to read the names."""
    names = sorted(files, key=natural)
    placed = face_keys(names)
    pairs = zip(placed.keys, (files[name] for name in names), strict=True)
    return FaceFiles({key: path for key, path in pairs if path is not None}, placed.by_name)


def first_faces(faces: FaceFiles) -> dict[int, Path]:
    """Of each frame the picture of its first face."""
    first: dict[int, Path] = {}
    for key in sorted(faces.files):
        first.setdefault(key.number, faces.files[key])
    return first


def swap_folder(path: Path, folder: str) -> Path:
    """The path with its last part called `frames` replaced: where DeepfakeBench has masks and landmarks."""
    parts = list(path.parts)
    for i in range(len(parts) - 1, -1, -1):
        if parts[i] == "frames":
            parts[i] = folder
            break
    return Path(*parts)
