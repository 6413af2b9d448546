"""Preparation of drawn videos in this process, for the tests."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from data_pipeline.core.images import read_image
from data_pipeline.datasets import COMPRESSED, PLAIN, Collection
from data_pipeline.faces.alignment import CropSettings
from data_pipeline.preparation import store
from data_pipeline.preparation.runner import Preparer, prepare_all, video_groups
from data_pipeline.preparation.store import PreparedVideo
from tests.support.video_trees import DiscDetector, clip, write_video

SIZE = 96


def prepare(
    result: Collection,
    out: Path,
    frames: int = 4,
    face_detector: DiscDetector | None = None,
    workers: int = 1,
    shard: slice = slice(None),
) -> tuple[dict[str, PreparedVideo], list[dict[str, str]]]:
    """Prepares a collection; the outcomes by `<group>/<name>`, and the rows of pairs.csv."""
    preparer = Preparer(
        out, frames, CropSettings(SIZE), face_detector=face_detector or DiscDetector()
    )
    every = video_groups(result.videos)
    for _ in prepare_all(preparer, every[shard], workers):
        pass
    videos = [video for group in every for video in group.videos]
    outcomes = {v.key: o for v in videos if (o := store.load(out, v)) is not None}
    store.write_tables(out, videos, outcomes)
    with (out / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {key.split("/", 1)[1]: outcome for key, outcome in outcomes.items()}, rows


def read(path: Path) -> np.ndarray:
    picture = read_image(path)
    assert picture is not None
    return picture.astype(int)


def two_families(root: Path) -> Collection:
    for seed, name in enumerate("ab"):
        write_video(root / f"real/{name}.avi", clip(seed, 9))
        write_video(root / f"fake/{name}.avi", clip(seed, 9, forged=[0]))
    return PLAIN["folder"](root)


def ffpp(root: Path) -> Collection:
    original, fake = "original_sequences/youtube", "manipulated_sequences/Deepfakes"
    write_video(root / original / "c23/videos/000.avi", clip(0, 9))
    write_video(root / original / "c23/videos/003.avi", clip(3, 9))
    write_video(root / fake / "c23/videos/000_003.avi", clip(0, 9, forged=[0]))
    for split, pairs in {"train": [["000", "003"]], "val": [], "test": []}.items():
        (root / "splits").mkdir(exist_ok=True)
        (root / f"splits/{split}.json").write_text(json.dumps(pairs))
    return COMPRESSED["faceforensics"](root, "c23")
