"""Forgery masks of a DeepfakeBench JSON as a table of forged regions, for `launch.score_annotations`."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from data_pipeline.datasets import deepfakebench
from data_pipeline.faces.landmarks import stored_landmarks
from data_pipeline.faces.regions import region_labels
from data_pipeline.fftg.images import read_image, read_mask
from data_pipeline.fftg.measure.difference_mask import PairError
from data_pipeline.fftg.measure.forged_regions import region_scores
from data_pipeline.fftg.measure.thresholds import DEFAULT
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import FAKE, REGIONS

COLUMNS: Final = ("id", "fake", "dataset", "method", "video", "frame", "split", *REGIONS)


def read_masks(
    file: Path,
    root: Path,
    out: Path,
    compression: str,
    update: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[str, int, Counter[str]]:
    """Reads the masks of all fakes. A region is forged where the mask covers more of it than
    `AnnotatorSettings.forged_dataset_mask`, which is the annotator's rule for such masks (ours).

    Args:
      file: the JSON.
      root: the folder that the data sets lie in; landmarks lie beside the frames.
      out: the CSV to be written; pictures below its folder are named relative to it.
      compression: of the FaceForensics++ family.
      update: is given the frames that were read, and all.

    Returns:
      The CSV, its rows, and the frames that are left out, by reason.

    Raises:
      UserError: see `deepfakebench.read`; or no frame has a mask.
    """
    videos = [v for v in deepfakebench.read(file, root, compression).videos if v.label == FAKE]
    total = sum(len(video.frames) for video in videos)
    folder = os.path.join(os.path.abspath(out.parent), "")
    left_out: Counter[str] = Counter()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    rows = done = 0
    for video in videos:
        for number, frame in video.frames.items():
            done += 1
            try:
                flags = _forged(frame, video.masks.get(number))
            except PairError as error:
                left_out[str(error).partition(":")[0]] += 1
            else:
                place = os.path.abspath(frame).removeprefix(folder)
                id_ = Path(place).with_suffix("").as_posix()
                names = (video.dataset, video.method, video.name, number, video.split)
                writer.writerow((id_, place, *names, *flags))
                rows += 1
            update(done, total)
    if not rows:
        why = ", ".join(f"{reason} {count}" for reason, count in left_out.items())
        raise UserError(f"{file}: no frame of a fake has a mask and landmarks under {root} ({why})")
    return text.getvalue(), rows, left_out


def _forged(frame: Path, path: Path | None) -> list[int]:
    """The flags of a frame in the order of REGIONS.

    Raises:
      PairError: it has no mask or landmarks, or one of its files cannot be read.
    """
    if path is None:
        raise PairError("no_mask", str(frame))
    try:
        landmarks = stored_landmarks(frame)
    except UserError as error:
        raise PairError("bad_landmarks", str(error)) from error
    if landmarks is None:
        raise PairError("no_landmarks", str(frame))
    image, _ = read_image(frame)
    mask = read_mask(path, image, image)
    values = (mask / 255).astype(np.float32)
    scores = region_scores(values, region_labels(landmarks, *mask.shape))
    return [int(score > DEFAULT.forged_dataset_mask) for score in scores]
