"""WildDeepfake (Zi et al., ACM MM 2020): 7314 sequences of faces cut from 707 videos of the web.

License and access: https://github.com/OpenTAI/wild-deepfake (agreement form, research only).

Layout, the archives unpacked where they lie (at the root or in `deepfake_in_the_wild/`):

    {real,fake}_{train,test}/<archive>/.../<sequence>/<frame>.png

Every folder that holds pictures is one sequence. They are face crops already and are taken as they
are. A fake's real is not in the set.

Split: the set's own folders, train and test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from data_pipeline.datasets import base
from jax_vlffd.errors import UserError

DATASET: Final = "WildDeepfake"

_LAYOUT: Final = [
    base.LayoutFolder(f"{side}_{split}", label, split, method, items=base.picture_folders)
    for side, method, label in (
        ("real", base.REAL_METHOD, "WDF_Real"),
        ("fake", DATASET, "WDF_Fake"),
    )
    for split in ("train", "test")
]


def scan(root: Path) -> base.Collection:
    """Finds the sequences; raises UserError where there are none, or only archives."""
    inner = root / "deepfake_in_the_wild"
    root = inner if inner.is_dir() else root
    base.require_folder(root, DATASET, *(row.group for row in _LAYOUT))
    videos = list(base.scan_layout(root, DATASET, _LAYOUT))
    if not videos:
        packed = any(root.glob("*/*.tar.gz"))
        remedy = "unpack the .tar.gz archives where they lie" if packed else "it holds no pictures"
        raise UserError(f"--root={root}: no sequence of faces was found; {remedy}")
    return base.collect(videos, {(DATASET, base.REAL_METHOD): 3805, (DATASET, DATASET): 3509})
