"""FFIW10K, Face Forensics in the Wild (Zhou et al., CVPR 2021): 10,000 videos of several people.

License and access: https://github.com/tfzhou/FFIW (terms of use, research only).

Layout, the videos in these folders or in `videos` within them:

    source/{train,val,test}/*.mp4    real
    target/{train,val,test}/*.mp4    forged, one or more of the faces

The fake and its real have the same file name. Which of the faces was forged the layout does not
say; it is the one that the pair differs on.

Split: the set's own folders; `test` comes as a release of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from data_pipeline.core.tables import split_name
from data_pipeline.datasets import base

DATASET: Final = "FFIW"


def scan(root: Path) -> base.Collection:
    """Finds the videos; raises UserError where `root` is something else."""
    inner = root / "FFIW10K-v1-release"
    root = inner if inner.is_dir() else root
    base.require_folder(root, DATASET, "target", "source")
    layout = []
    for folder in ("train", "val", "test"):
        reals, split = f"source/{folder}", split_name(folder) or ""
        layout += [
            base.LayoutFolder(reals, "FFIW_Real", split),
            base.LayoutFolder(f"target/{folder}", "FFIW_Fake", split, DATASET, reals, str),
        ]
    counts = {(DATASET, base.REAL_METHOD): 10000, (DATASET, DATASET): 10000}
    return base.collect(base.scan_layout(root, DATASET, layout), counts)
