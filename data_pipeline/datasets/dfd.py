"""DeepFakeDetection, DFD (Google and Jigsaw 2019): 28 actors, 363 originals, 3068 fakes.

Licence and access: https://github.com/ondyari/FaceForensics (distributed with FaceForensics++).

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
from pathlib import Path
from typing import Final

from data_pipeline.datasets.base import (
    REAL_METHOD,
    Collection,
    Video,
    collect,
    compression_folder,
    media,
    require_folder,
)
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import FAKE, REAL

DATASET: Final = "DeepFakeDetection"
REAL_LABEL: Final = "DFD_real"
FAKE_LABEL: Final = "DFD_fake"

_ORIGINALS: Final = "original_sequences/actors"
_FAKES: Final = "manipulated_sequences/DeepFakeDetection"
_REAL_NAME: Final = re.compile(r"\d{2}__.+")
_FAKE_NAME: Final = re.compile(r"(\d{2})_(\d{2})__(.+)__[A-Z0-9]+")
_MISNAMED: Final = "of DeepFakeDetection, not called AA__SCENE or AA_BB__SCENE__HASH"
#: Said where the fakes are face crops already.
UNPAIRED: Final = (
    "the fakes of DeepFakeDetection drop frames, so crops on disk cannot be paired by their numbers and "
    "stand without their reals; prepare the videos to have pairs"
)


def find(root: Path, compression: str) -> Collection:
    """Finds the videos; raises UserError where there are none of this compression."""
    require_folder(root, DATASET, "original_sequences", "manipulated_sequences")
    found = in_tree(root, compression)
    if not found.videos:
        raise UserError(
            f"--root={root} has no videos of compression {compression} at {_ORIGINALS} or {_FAKES}"
        )
    return found


def in_tree(root: Path, compression: str) -> Collection:
    """As `find`, for a tree that need not hold any."""
    videos = []
    left_out: Counter[str] = Counter()
    originals = compression_folder(root, _ORIGINALS, compression)
    fakes = compression_folder(root, _FAKES, compression)
    for group, label in ((originals, REAL), (fakes, FAKE)):
        for name, (path, cropped) in media(root / group).items():
            pattern = _FAKE_NAME if label == FAKE else _REAL_NAME
            if not pattern.fullmatch(name):
                left_out[_MISNAMED] += 1
                continue
            real = real_of(name) if label == FAKE and not cropped else ""
            videos.append(
                Video(
                    dataset=DATASET,
                    group=group,
                    name=name,
                    path=path,
                    label=label,
                    method=DATASET if label == FAKE else REAL_METHOD,
                    bench_label=FAKE_LABEL if label == FAKE else REAL_LABEL,
                    split="test",
                    real=f"{DATASET}/{originals}/{real}" if real else "",
                    compression=compression,
                    cropped=cropped,
                )
            )
    expected = {(DATASET, REAL_METHOD): 363, (DATASET, DATASET): 3068}
    crops = any(video.cropped and video.label == FAKE for video in videos)
    return collect(videos, expected, left_out, [UNPAIRED] if crops else [])


def real_of(name: str) -> str:
    """The name of the original (`01_02__walk__ABC` -> `01__walk`), or ""."""
    match = _FAKE_NAME.fullmatch(name)
    return f"{match[1]}__{match[3]}" if match else ""
