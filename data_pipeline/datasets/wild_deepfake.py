"""WildDeepfake (Zi et al., ACM MM 2020): 7314 sequences of faces cut from 707 videos of the web.

Licence and access: https://github.com/OpenTAI/wild-deepfake (agreement form, research only).

Layout, the archives unpacked where they lie (at the root or in `deepfake_in_the_wild/`):

    {real,fake}_{train,test}/<archive>/.../<sequence>/<frame>.png

Every folder that holds pictures is one sequence. They are face crops already and are taken as they
are. A fake's real is not in the set.

Split: the set's own folders, train and test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from data_pipeline.datasets.base import (
    REAL_METHOD,
    Collection,
    Video,
    collect,
    picture_folders,
    require_folder,
)
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import FAKE, REAL

DATASET: Final = "WildDeepfake"

_FOLDERS: Final = {
    f"{name}_{split}": (label, split)
    for name, label in (("real", REAL), ("fake", FAKE))
    for split in ("train", "test")
}


def find(root: Path) -> Collection:
    """Finds the sequences; raises UserError where there are none, or only archives."""
    inner = root / "deepfake_in_the_wild"
    root = inner if inner.is_dir() else root
    require_folder(root, DATASET, *_FOLDERS)
    videos = []
    for group, (label, split) in _FOLDERS.items():
        for folder in picture_folders(root / group):
            videos.append(
                Video(
                    dataset=DATASET,
                    group=group,
                    name="_".join(folder.relative_to(root / group).parts) or group,
                    path=folder,
                    label=label,
                    method=DATASET if label == FAKE else REAL_METHOD,
                    bench_label="WDF_Fake" if label == FAKE else "WDF_Real",
                    split=split,
                    cropped=True,
                )
            )
    if not videos:
        packed = any(root.glob("*/*.tar.gz"))
        remedy = "unpack the .tar.gz archives where they lie" if packed else "it holds no pictures"
        raise UserError(f"--root={root}: no sequence of faces was found; {remedy}")
    return collect(videos, {(DATASET, REAL_METHOD): 3805, (DATASET, DATASET): 3509})
