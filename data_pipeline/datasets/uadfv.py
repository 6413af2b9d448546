"""UADFV (Yang et al., ICASSP 2019): 49 videos of celebrities, each with one fake.

Licence and access: https://docs.google.com/forms/d/e/1FAIpQLScKPoOv15TIZ9Mn0nGScIVgKRM9tFWOmjh9eHKx57Yp-XcnxA/viewform
(request form, research only).

Layout, the videos in these folders or in `videos` within them, or DeepfakeBench's crops in `frames`:

    real/NNNN.mp4
    fake/NNNN_fake.mp4

Split: there is no official one; the field tests on all of it, so every video is `test`.
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

DATASET: Final = "UADFV"


def find(root: Path) -> Collection:
    """Finds the videos; raises UserError where `root` is something else."""
    require_folder(root, DATASET, "fake", "real")
    videos = [
        Video(
            dataset=DATASET,
            group=group,
            name=name,
            path=path,
            label=label,
            method=DATASET if label == FAKE else REAL_METHOD,
            bench_label=f"UADFV_{group.capitalize()}",
            split="test",
            real=f"{DATASET}/real/{real_of(name)}" if label == FAKE else "",
            cropped=cropped,
        )
        for group, label in (("real", REAL), ("fake", FAKE))
        for name, (path, cropped) in media(root / group).items()
    ]
    return collect(videos, {(DATASET, REAL_METHOD): 49, (DATASET, DATASET): 49})


def real_of(name: str) -> str:
    """The name of the real video (`0003_fake` -> `0003`)."""
    return name.removesuffix("_fake")
