"""FFIW10K, Face Forensics in the Wild (Zhou et al., CVPR 2021): 10,000 videos of several people.

Licence and access: https://github.com/tfzhou/FFIW (terms of use, research only).

Layout, the videos in these folders or in `videos` within them:

    source/{train,val,test}/*.mp4    real
    target/{train,val,test}/*.mp4    forged, one or more of the faces

The fake and its real have the same file name. Which of the faces was forged is not told by the
layout; it is the one that the pair differs on.

Split: the set's own folders; `test` comes as a release of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from data_pipeline.datasets.base import (
    REAL_METHOD,
    Collection,
    Video,
    collect,
    media,
    require_folder,
)
from jax_vlffd.vocabulary import FAKE, REAL

DATASET: Final = "FFIW"

_SPLITS: Final = {"train": "train", "val": "validation", "test": "test"}


def find(root: Path) -> Collection:
    """Finds the videos; raises UserError where `root` is something else."""
    inner = root / "FFIW10K-v1-release"
    root = inner if inner.is_dir() else root
    require_folder(root, DATASET, "target", "source")
    videos = []
    for side, label in (("source", REAL), ("target", FAKE)):
        for folder, split in _SPLITS.items():
            for name, (path, cropped) in media(root / side / folder).items():
                videos.append(
                    Video(
                        dataset=DATASET,
                        group=f"{side}/{folder}",
                        name=name,
                        path=path,
                        label=label,
                        method=DATASET if label == FAKE else REAL_METHOD,
                        bench_label="FFIW_Fake" if label == FAKE else "FFIW_Real",
                        split=split,
                        real=f"{DATASET}/source/{folder}/{name}" if label == FAKE else "",
                        cropped=cropped,
                    )
                )
    return collect(videos, {(DATASET, REAL_METHOD): 10000, (DATASET, DATASET): 10000})
