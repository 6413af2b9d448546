"""UADFV (Yang et al., ICASSP 2019): 49 videos of celebrities, each with one fake.

License and access: https://docs.google.com/forms/d/e/1FAIpQLScKPoOv15TIZ9Mn0nGScIVgKRM9tFWOmjh9eHKx57Yp-XcnxA/viewform
(request form, research only).

Layout, the videos in these folders or in `videos` within them, or DeepfakeBench's crops in `frames`:

    real/NNNN.mp4
    fake/NNNN_fake.mp4

Split: there is no official one; the field tests on all of it, so every video is `test`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from data_pipeline.datasets import base

DATASET: Final = "UADFV"


def scan(root: Path) -> base.Collection:
    """Finds the videos; raises UserError where `root` is something else."""
    base.require_folder(root, DATASET, "fake", "real")
    layout = (
        base.LayoutFolder("real", "UADFV_Real", "test"),
        base.LayoutFolder("fake", "UADFV_Fake", "test", DATASET, "real", real_of),
    )
    counts = {(DATASET, base.REAL_METHOD): 49, (DATASET, DATASET): 49}
    return base.collect(base.scan_layout(root, DATASET, layout), counts)


def real_of(name: str) -> str:
    """The name of the real video (`0003_fake` -> `0003`)."""
    return name.removesuffix("_fake")
