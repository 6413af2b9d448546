"""Scores a detector's heat maps: their patches against the records' masks (ours)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from sklearn.metrics import roc_auc_score

from data_pipeline.core.images import InputError, decode_image
from data_pipeline.loading.examples import forged_patches
from data_pipeline.packed.reader import PackedSplit
from jax_vlffd.inference.detector import Detector, Prediction
from jax_vlffd.vocabulary import FAKE

#: Fakes that are scored, spread over the split: the maps of all are held in memory.
MAX_FAKES: Final = 500


def score_maps(workdir: Path, folder: Path, split: str) -> dict[str, Any] | None:
    """The area under the ROC curve of an image's patches, mean over fakes, in which a patch is positive
    when more than half of it is forged.

    Beside the classifier's map and the reasons' (the mean over those that name a region) stand two
    controls: the classifier's map of another fake, and nearness to the picture's center. What a map says of
    *its* image is what it has above them.

    Args:
      workdir: of the run, or an exported folder.
      folder: a packed set.
      split: of it.

    Returns:
      `fakes`, `classifier`, `reasons` (None where nothing was said of any), `fakes_with_reasons`,
      `classifier_of_another`, `center`; None for a split in which no mask covers a patch.
    """
    detector = Detector.from_pretrained(workdir)
    vision = detector.trained.model.clip.vision
    images, truths = [], []
    for record in _spread(PackedSplit(folder, split)):
        try:
            image = decode_image(record.image)
        except InputError:
            continue
        truth = forged_patches(record, image, vision.image_size, vision.grid) > 0.5
        if truth.any() and not truth.all():
            images.append(image)
            truths.append(truth)
    if not truths:
        return None
    predictions = detector.predict(images)
    maps = [_flat(prediction.classifier_map) for prediction in predictions]
    of_another = maps[1:] + maps[:1]
    side = np.abs(np.arange(vision.grid) - (vision.grid - 1) / 2)
    center = [-np.hypot(side[:, None], side).reshape(-1)] * len(maps)
    found = [
        (truth, _reasons_map(prediction))
        for truth, prediction in zip(truths, predictions, strict=True)
    ]
    said = [(truth, values) for truth, values in found if values is not None]
    return {
        "fakes": len(truths),
        "classifier": _mean_auc(truths, maps),
        "reasons": _mean_auc(*zip(*said, strict=True)) if said else None,
        "fakes_with_reasons": len(said),
        "classifier_of_another": _mean_auc(truths, of_another),
        "center": _mean_auc(truths, center),
    }


def _spread(split: PackedSplit) -> Any:
    fakes = np.flatnonzero(split.index["label"] == FAKE)
    chosen = np.linspace(0, len(fakes) - 1, min(MAX_FAKES, len(fakes))).round().astype(int)
    return (split[int(row)] for row in fakes[chosen])


def _reasons_map(prediction: Prediction) -> np.ndarray | None:
    """The mean map of the reasons that name a region, None where none does."""
    named = [
        _flat(found)
        for reason, found in zip(prediction.reasons, prediction.reason_maps, strict=True)
        if reason.region
    ]
    return np.mean(named, axis=0) if named else None


def _flat(found: np.ndarray | None) -> np.ndarray:
    assert found is not None  # every face crop has its maps
    return found.reshape(-1)


def _mean_auc(truths: Any, maps: Any) -> float:
    return float(np.mean([roc_auc_score(t, m) for t, m in zip(truths, maps, strict=True)]))
