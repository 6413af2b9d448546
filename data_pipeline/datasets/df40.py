"""DF40 (Yan et al., NeurIPS 2024): forty methods on the reals of FaceForensics++ and Celeb-DF.

License and access: https://github.com/YZY-stack/DF40 (CC BY-NC 4.0 and the terms of the sources).

Layout, with `<domain>` one of ff, ffpp, cdf, cdfv2:

    <method>/<domain>/frames/<video>/<frame>.png    face crops (face swaps, reenactment)
    <method>/<domain>/.../<picture>.png             single crops (whole faces synthesized, edited)
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

from data_pipeline.core.frame_numbers import entries, files_below, is_picture
from data_pipeline.datasets import base, celeb_df, faceforensics
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


def scan(root: Path) -> base.Collection:
    """Finds the videos and pictures; raises UserError where there are none."""
    base.require_folder(root, DATASET)
    videos: list[base.Video] = []
    for folder in ("train", "test"):
        if (root / folder).is_dir():
            videos += base.scan_layout(root, DATASET, _layout(root, f"{folder}/", folder))
    if not videos:
        videos = list(base.scan_layout(root, DATASET, _layout(root, "", "test")))
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
    return base.collect(videos, notes=notes)


def _layout(root: Path, prefix: str, split: str) -> Iterator[base.LayoutFolder]:
    for group in _REALS:
        yield base.LayoutFolder(prefix + group, "DF40_Real", split, items=_items)
    for folder in entries(root / prefix):
        place, method = f"{prefix}{folder.name}", folder.name
        for domain in (*_DOMAINS, "fake"):
            of_ff = domain.startswith("ff")
            reals = prefix + _REALS[0 if of_ff else 1] if method.lower() in _SWAPS else ""
            real_of = faceforensics.real_of if of_ff else celeb_df.real_of
            fake = f"{method}_Fake"
            yield base.LayoutFolder(
                f"{place}/{domain}", fake, split, method, reals, real_of, _items
            )
        yield base.LayoutFolder(f"{place}/real", f"{method}_Real", split, items=_items)


def _items(folder: Path) -> Iterator[base.VideoEntry]:
    """Videos of a folder, and its pictures: those of a folder in `frames` together, others alone."""
    videos = base.media(folder)
    yield from (base.VideoEntry(name, path, path.is_dir()) for name, path, _ in videos)
    if not videos:
        for path in sorted(path for path in files_below(folder) if is_picture(path)):
            name = "_".join(path.relative_to(folder).with_suffix("").parts)
            yield base.VideoEntry(name, path, True)
