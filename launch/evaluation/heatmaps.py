"""Scores a detector's heat maps: patch AUC against the records' masks (ours)."""

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

#: Number of fakes that are scored, evenly spaced over the split: their maps are held in memory.
MAX_FAKES: Final = 500


def score_maps(workdir: Path, folder: Path, split: str) -> dict[str, Any] | None:
    """The ROC AUC of an image's patches, averaged over fakes; a patch is positive if over half of it is forged.

    Scored are the classifier's map, the reasons' (averaged over those that name a region), and two controls:
    the classifier's map of another fake, and nearness to the picture's center. Only the excess over the
    controls is evidence about the image itself.

    Args:
      workdir: of the run, or an exported folder.
      folder: a packed set.
      split: of it.

    Returns:
      `fakes`, `classifier`, `reasons` (None without any reason that names a region), `fakes_with_reasons`,
      `classifier_of_another`, `center`; None if no mask of the split covers a patch.
    """
    detector = Detector.from_pretrained(workdir)
    model = detector.trained.model
    vision = model.clip.vision
    images, truths = [], []
    for record in _sampled_fakes(PackedSplit(folder, split)):
        try:
            image = decode_image(record.image)
        except InputError:
            continue
        shares = forged_patches(record, image, vision.image_size, vision.grid, resize=model.resize)
        truth = shares > 0.5
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
    with_reasons = [
        (truth, reasons_map)
        for truth, prediction in zip(truths, predictions, strict=True)
        if (reasons_map := _reasons_map(prediction)) is not None
    ]
    return {
        "fakes": len(truths),
        "classifier": _mean_auc(truths, maps),
        "reasons": _mean_auc(*zip(*with_reasons, strict=True)) if with_reasons else None,
        "fakes_with_reasons": len(with_reasons),
        "classifier_of_another": _mean_auc(truths, of_another),
        "center": _mean_auc(truths, center),
    }


def _sampled_fakes(split: PackedSplit) -> Any:
    fakes = np.flatnonzero(split.index["label"] == FAKE)
    chosen = np.linspace(0, len(fakes) - 1, min(MAX_FAKES, len(fakes))).round().astype(int)
    return (split[int(row)] for row in fakes[chosen])


def _reasons_map(prediction: Prediction) -> np.ndarray | None:
    """The mean map of the reasons that name a region; None if there are none."""
    named = [
        _flat(reason_map)
        for reason, reason_map in zip(prediction.reasons, prediction.reason_maps, strict=True)
        if reason.region
    ]
    return np.mean(named, axis=0) if named else None


def _flat(heat_map: np.ndarray | None) -> np.ndarray:
    assert heat_map is not None  # every face crop has its maps
    return heat_map.reshape(-1)


def _mean_auc(truths: Any, maps: Any) -> float:
    return float(np.mean([roc_auc_score(t, m) for t, m in zip(truths, maps, strict=True)]))
