"""FaceForensics++ (Roessler et al., ICCV 2019): 1000 videos from YouTube, forged by several methods.

License and access: https://github.com/ondyari/FaceForensics (terms of use, research only).

Layout, with `<c>` one of raw, c23, c40:

    original_sequences/youtube/<c>/videos/NNN.mp4
    manipulated_sequences/<method>/<c>/videos/NNN_MMM.mp4
    splits/{train,val,test}.json, or the three beside the folders

`<method>` is Deepfakes, Face2Face, FaceSwap, NeuralTextures or FaceShifter; NNN is the target, whose
video was changed, MMM the source. DeepFakeDetection and its actors lie in the same tree and come
along as a data set of their own (see `dfd`). Instead of `videos` there may be `images/<video>/`
(whole frames) or DeepfakeBench's `frames/<video>/` (face crops).

Split: the official lists of pairs, 720/140/140 originals; a fake belongs to a split when both its
ids do. The lists are not ours to ship: without them the split stays empty.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Final

from data_pipeline.core.tables import read_json
from data_pipeline.datasets import base, dfd
from jax_vlffd.errors import UserError

DATASET: Final = "FaceForensics++"
#: The methods with their labels in DeepfakeBench.
METHODS: Final = {
    "Deepfakes": "FF-DF",
    "Face2Face": "FF-F2F",
    "FaceSwap": "FF-FS",
    "NeuralTextures": "FF-NT",
    "FaceShifter": "FF-FH",
}
REAL_LABEL: Final = "FF-real"

#: `NNN_MMM` -> `NNN`.
real_of: Final = base.real_name(r"(\d{3})_\d{3}", r"\1")
_LISTS: Final = {"train": "train.json", "validation": "val.json", "test": "test.json"}
_LISTS_PAGE: Final = "https://github.com/ondyari/FaceForensics/tree/master/dataset/splits"


def scan(root: Path, compression: str) -> base.Collection:
    """Finds the videos of FaceForensics++ and, where they are there, of DeepFakeDetection.

    Raises:
      UserError: `root` is something else, nothing has this compression, or a split list is wrong.
    """
    base.require_folder(root, DATASET, "original_sequences", "manipulated_sequences")
    splits = read_splits(root)
    left_out: Counter[str] = Counter()
    videos = []
    for video in base.scan_layout(root, DATASET, _layout(root, compression), compression):
        split = split_of(video.name, splits)
        if split is None:
            left_out["in no split list, or its two ids are in different ones"] += 1
        else:
            videos.append(replace(video, split=split))
    collection = base.collect(videos, left_out=left_out)
    actors = dfd.in_tree(root, compression)
    if not collection.videos and not actors.videos:
        raise UserError(
            f"--root={root} has no videos of compression {compression}; "
            f"choose another --compression, or check the layout: original_sequences/youtube/"
            f"{compression}/videos/*.mp4"
        )
    notes = [] if splits else [_no_lists(root)]
    expected = {(DATASET, name): 1000 for name in (base.REAL_METHOD, *METHODS)}
    return base.Collection(
        (*collection.videos, *actors.videos),
        {**expected, **(actors.expected if actors.videos else {})},
        Counter(collection.left_out) + Counter(actors.left_out),
        (*notes, *actors.notes),
    )


def read_splits(root: Path) -> dict[str, str]:
    """The split of every id, from the official lists; empty where there are none.

    Raises:
      UserError: a list is missing while others are there, is not a list of pairs of ids, or repeats an
        id of another list.
    """
    folder = next((at for at in (root / "splits", root) if _any_list(at)), None)
    if folder is None:
        return {}
    splits: dict[str, str] = {}
    for split, file in _LISTS.items():
        path = folder / file
        if not path.is_file():
            raise UserError(f"{path} is missing beside the other split lists; see {_LISTS_PAGE}")
        pairs = read_json(path)
        if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
            raise UserError(
                f"{path} is not a list of pairs of three-digit ids; take it from {_LISTS_PAGE}"
            )
        for id_ in (id_ for pair in pairs for id_ in pair):
            if splits.setdefault(id_, split) != split:
                raise UserError(
                    f"{path} repeats id {id_} of {splits[id_]}; take the lists from {_LISTS_PAGE}"
                )
    return splits


def split_of(name: str, splits: dict[str, str]) -> str | None:
    """The split of a video: "" without lists, None where the lists put it nowhere."""
    if not splits:
        return ""
    own = {splits.get(id_) for id_ in name.split("_")}
    return own.pop() if len(own) == 1 else None


def _any_list(folder: Path) -> bool:
    return any((folder / file).is_file() for file in _LISTS.values())


def _is_pair(pair: object) -> bool:
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(id_, str) and re.fullmatch(r"\d{3}", id_) for id_ in pair)
    )


def _layout(root: Path, compression: str) -> list[base.LayoutFolder]:
    reals = base.compression_folder(root, "original_sequences/youtube", compression)
    rows = [base.LayoutFolder(reals, REAL_LABEL)]
    for method, label in METHODS.items():
        group = base.compression_folder(root, f"manipulated_sequences/{method}", compression)
        rows.append(base.LayoutFolder(group, label, "", method, reals, real_of))
    return rows


def _no_lists(root: Path) -> str:
    return (
        f"no split lists: copy train.json, val.json and test.json from {_LISTS_PAGE} to "
        f"{root / 'splits'} for the official split; without them the split stays empty and "
        "launch.pack divides by person"
    )
