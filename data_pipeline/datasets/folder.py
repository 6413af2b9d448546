"""Your own pictures and videos: `real/`, `fake/`, and `pairs.csv` where pairs are known.

Layout:

    real/<name>.mp4     fake/<name>.mp4 or fake/<method>/<name>.mp4
    real/<name>.png     fake/<name>.png: each picture stands for itself
    real/<name>/*.png   fake/<name>/*.png: a folder of pictures is one video
    pairs.csv           optional, columns real,fake and any of method,video,split,dataset

The method of a fake is the first folder below `fake/`, if there is a further level, else `fake`.

With `pairs.csv` the rows say what belongs together (paths relative to the CSV; an empty `fake` is a
real alone, an empty `real` a fake without its real) and nothing else is taken. Without it a fake
belongs to the real of the same path below `fake/` and `real/`, else to the only real of its name.

Split: the column `split`, otherwise none. License: yours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from data_pipeline.core.frame_numbers import VIDEO_SUFFIXES, entries, is_picture
from data_pipeline.core.tables import read_rows, split_name
from data_pipeline.datasets.base import REAL_METHOD, Collection, Video, collect, require_folder
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import FAKE, REAL

_FAKE: Final = "fake"


def scan(root: Path) -> Collection:
    """Finds the pictures and videos of a folder.

    Raises:
      UserError: there are none, a row of `pairs.csv` names a file that is not there or lies outside
        the root, or gives one file two roles.
    """
    root = Path(os.path.abspath(root))
    dataset = root.name
    if (root / "pairs.csv").is_file():
        return _listed(root, dataset)
    real_side, fake_side = _side(root, "real"), _side(root, _FAKE)
    require_folder(root, "a folder of real and fake faces", fake_side.name, real_side.name)
    reals = {place: _video(root, dataset, path, REAL) for place, path in _places(real_side).items()}
    videos = list(reals.values())
    for place, path in _places(fake_side).items():
        same = [reals[at] for at in reals if at.name == place.name]
        real = reals.get(place) or (same[0] if len(same) == 1 else None)
        method = place.parts[0] if len(place.parts) > 1 else _FAKE
        videos.append(_video(root, dataset, path, FAKE, method, real.key if real else ""))
    if not videos:
        raise UserError(f"--root={root}: real/ and fake/ hold no pictures or videos")
    return collect(videos)


def _side(root: Path, name: str) -> Path:
    """The folder `real` or `fake` of a root, in whatever case it is written."""
    sides = [path for path in entries(root) if path.name.lower() == name and path.is_dir()]
    if len(sides) > 1:
        both = f"{sides[0].name}/ and {sides[1].name}/"
        raise UserError(f"--root={root} has both {both}; put their files into one")
    return sides[0] if sides else root / name


def _places(side: Path) -> dict[PurePosixPath, Path]:
    """Pictures right in a side, videos and folders of pictures: path below it, no suffix -> path.

    Of two files with one name (`a.png`, `a.jpg`) both are kept, and `collect` refuses them.
    """
    places: dict[PurePosixPath, Path] = {}
    for path in sorted(_below(side, top=True)):
        inner = PurePosixPath(path.relative_to(side).as_posix())
        short = inner if path.is_dir() else inner.with_suffix("")
        places[inner if short in places else short] = path
    return places


def _below(folder: Path, top: bool = False) -> Iterator[Path]:
    inside = entries(folder)
    if not top and any(is_picture(path) for path in inside):
        yield folder
    for path in inside:
        if path.is_dir():
            yield from _below(path)
        elif path.suffix.lower() in VIDEO_SUFFIXES or (top and is_picture(path)):
            yield path


def _listed(root: Path, dataset: str) -> Collection:
    table = root / "pairs.csv"
    videos: dict[Path, Video] = {}
    for number, row in enumerate(read_rows(table, "real", "fake"), start=2):
        where = f"{table}, row {number}"
        stated = row.get("split", "")
        split = split_name(stated) if stated else ""
        if split is None:
            raise UserError(f"{where}: split '{stated}' is not one of train, validation, test")
        real = ""
        for label, column in ((REAL, "real"), (FAKE, "fake")):
            if not row[column]:
                continue
            path = _inside(root, row[column], where)
            method = row.get("method", "") or _FAKE if label == FAKE else REAL_METHOD
            name = row.get("dataset", "") or dataset
            video = _video(root, name, path, label, method, real, split)
            if videos.setdefault(path, video) != video:
                raise UserError(f"{where}: {row[column]} is described differently by another row")
            real = video.key
    if not videos:
        raise UserError(f"{table} has no rows")
    return collect(videos.values())


def _video(
    root: Path,
    dataset: str,
    path: Path,
    label: int,
    method: str = REAL_METHOD,
    real: str = "",
    split: str = "",
) -> Video:
    inner = PurePosixPath(path.relative_to(root).as_posix())
    # Reals and fakes may lie in one folder, so the label leads, unless the path has it.
    side = "real" if label == REAL else _FAKE
    parts = inner.parts[:-1]
    return Video(
        dataset=dataset,
        group="/".join(parts if parts[:1] == (side,) else (side, *parts)),
        name=inner.name if path.is_dir() else inner.stem,
        path=path,
        label=label,
        method=method,
        bench_label=f"{dataset}_{'Real' if label == REAL else 'Fake'}",
        split=split,
        real=real,
    )


def _inside(root: Path, name: str, where: str) -> Path:
    path = Path(os.path.normpath(root / name.replace("\\", "/")))
    if not path.is_relative_to(root):
        raise UserError(f"{where}: '{name}' leaves {root}; paths are relative to the CSV")
    if not os.path.exists(path):
        raise UserError(f"{where}: '{name}' is not there")
    return path
