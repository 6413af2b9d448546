"""DF40 (Yan et al., NeurIPS 2024): forty methods on the reals of FaceForensics++ and Celeb-DF.

Licence and access: https://github.com/YZY-stack/DF40 (CC BY-NC 4.0 and the terms of the sources).

Layout, with `<domain>` one of ff, ffpp, cdf, cdfv2:

    <method>/<domain>/frames/<video>/<frame>.png    face crops (face swaps, reenactment)
    <method>/<domain>/.../<picture>.png             single crops (whole faces synthesised, edited)
    <method>/<domain>/videos/<video>.mp4            original videos, where they were downloaded
    <method>/{fake,real}/...                        methods that bring reals of their own
    FaceForensics++/... and Celeb-DF-v2/...         DeepfakeBench's reals, if laid beside them

The training and the test data are separate downloads: lay them at `train/` and `test/` of the root.
Otherwise the root is taken for the test data. That is the split too.

The README does not say which video a fake keeps. For face swaps the first of the two ids is tried;
`launch.prepare` keeps such a pair only when the pictures agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from data_pipeline.core.frame_numbers import entries, is_picture
from data_pipeline.datasets import celeb_df, faceforensics
from data_pipeline.datasets.base import (
    REAL_METHOD,
    Collection,
    Video,
    collect,
    media,
    require_folder,
)
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import FAKE, REAL

DATASET: Final = "DF40"

_DOMAINS: Final = ("ff", "ffpp", "cdf", "cdfv2")
#: Where the reals of the sources lie, and what their videos are called there.
_REALS: Final = (
    "FaceForensics++/original_sequences/youtube/c23",
    "Celeb-DF-v2/Celeb-real",
    "Celeb-DF-v2/YouTube-real",
)
#: Face swaps that blend the new face into the frames of a video.
_SWAPS: Final = (
    *("fsgan", "faceswap", "simswap", "inswap", "blendface", "uniface", "mobileswap", "e4s"),
    "facedancer",
)


def find(root: Path) -> Collection:
    """Finds the videos and pictures; raises UserError where there are none."""
    require_folder(root, DATASET)
    videos: list[Video] = []
    for folder in ("train", "test"):
        if (root / folder).is_dir():
            videos += _find(root / folder, f"{folder}/", folder)
    if not videos:
        videos = list(_find(root, "", "test"))
    if not any(video.label == FAKE for video in videos):
        raise UserError(
            f"--root={root} does not look like DF40: no <method>/{{{','.join(_DOMAINS)}}}/ "
            "or <method>/fake/ with pictures"
        )
    notes = []
    if not any(video.label == REAL for video in videos):
        notes.append(
            "no reals: DF40 comes without those of FaceForensics++ and Celeb-DF; lay "
            "DeepfakeBench's FaceForensics++/ and Celeb-DF-v2/ beside the methods"
        )
    return collect(videos, notes=notes)


def _find(root: Path, prefix: str, split: str) -> Iterator[Video]:
    for group in _REALS:
        for name, path in _items(root / group):
            yield _video(prefix + group, name, path, REAL, REAL_METHOD, "DF40", split)
    for folder in entries(root):
        for domain in (*_DOMAINS, "fake", "real"):
            group, method = f"{folder.name}/{domain}", folder.name
            label = REAL if domain == REAL_METHOD else FAKE
            for name, path in _items(root / group):
                real = _real_of(method, domain, name, prefix) if label == FAKE else ""
                named = method if label == FAKE else REAL_METHOD
                yield _video(prefix + group, name, path, label, named, method, split, real)


def _video(
    group: str,
    name: str,
    path: Path,
    label: int,
    method: str,
    bench: str,
    split: str,
    real: str = "",
) -> Video:
    return Video(
        dataset=DATASET,
        group=group,
        name=name,
        path=path,
        label=label,
        method=method,
        bench_label=f"{bench}_{'Fake' if label == FAKE else 'Real'}",
        split=split,
        real=real,
        cropped=path.is_dir() or is_picture(path),
    )


def _items(folder: Path) -> Iterator[tuple[str, Path]]:
    """Videos of a folder, and its pictures: those of a folder in `frames` together, others alone."""
    found = media(folder)
    yield from ((name, path) for name, (path, _) in found.items())
    if not found:
        for path in sorted(path for path in folder.rglob("*") if is_picture(path)):
            yield "_".join(path.relative_to(folder).with_suffix("").parts), path


def _real_of(method: str, domain: str, name: str, prefix: str) -> str:
    if method.lower() not in _SWAPS:
        return ""
    if domain.startswith("ff"):
        real, group = faceforensics.real_of(name), _REALS[0]
    else:
        real, group = celeb_df.real_of(name), _REALS[1]
    return f"{DATASET}/{prefix}{group}/{real}" if real else ""
