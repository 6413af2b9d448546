"""DeepFakeDetection, DFD (Google and Jigsaw 2019): 28 actors, 363 originals, 3068 fakes.

License and access: https://github.com/ondyari/FaceForensics (distributed with FaceForensics++).

Layout, with `<c>` one of raw, c23, c40:

    original_sequences/actors/<c>/videos/AA__SCENE.mp4
    manipulated_sequences/DeepFakeDetection/<c>/videos/AA_BB__SCENE__HASH.mp4

AA is the target, whose video was changed, BB the source; files called otherwise are left out. The fakes
drop frames of their originals, so equal frame numbers are other moments: whole videos are aligned in
time, face crops on disk cannot be and stand without their real. Instead of `videos` there may be `images`
(whole frames) or DeepfakeBench's `frames` (face crops).

Split: there is no official one; the field tests on all of it, so every video is `test`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Final

from data_pipeline.datasets import base
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import FAKE

DATASET: Final = "DeepFakeDetection"
REAL_LABEL: Final = "DFD_real"
FAKE_LABEL: Final = "DFD_fake"

_ORIGINALS: Final = "original_sequences/actors"
_FAKES: Final = "manipulated_sequences/DeepFakeDetection"
_REAL_NAME: Final = re.compile(r"\d{2}__.+")
_MISNAMED: Final = "of DeepFakeDetection, not called AA__SCENE or AA_BB__SCENE__HASH"
#: `01_02__walk__ABC` -> `01__walk`.
real_of: Final = base.real_name(r"(\d{2})_\d{2}__(.+)__[A-Z0-9]+", r"\1__\2")
#: Said where the fakes are face crops already.
UNPAIRED: Final = (
    "the fakes of DeepFakeDetection drop frames, so crops on disk cannot be paired by their numbers and "
    "stand without their reals; prepare the videos to have pairs"
)


def scan(root: Path, compression: str) -> base.Collection:
    """Finds the videos; raises UserError where there are none of this compression."""
    base.require_folder(root, DATASET, "original_sequences", "manipulated_sequences")
    collection = in_tree(root, compression)
    if not collection.videos:
        raise UserError(
            f"--root={root} has no videos of compression {compression} at {_ORIGINALS} or {_FAKES}"
        )
    return collection


def in_tree(root: Path, compression: str) -> base.Collection:
    """As `scan`, for a tree that need not hold any."""
    originals = base.compression_folder(root, _ORIGINALS, compression)
    fakes = base.compression_folder(root, _FAKES, compression)
    layout = (
        base.LayoutFolder(originals, REAL_LABEL, "test"),
        base.LayoutFolder(fakes, FAKE_LABEL, "test", DATASET, originals, real_of),
    )
    videos = []
    left_out: Counter[str] = Counter()
    for video in base.scan_layout(root, DATASET, layout, compression):
        if real_of(video.name) if video.label == FAKE else _REAL_NAME.fullmatch(video.name):
            videos.append(replace(video, real="") if video.cropped else video)
        else:
            left_out[_MISNAMED] += 1
    counts = {(DATASET, base.REAL_METHOD): 363, (DATASET, DATASET): 3068}
    crops = any(video.cropped and video.label == FAKE for video in videos)
    return base.collect(videos, counts, left_out, [UNPAIRED] if crops else [])
