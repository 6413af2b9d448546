"""Whether the types are detected as well on dark skin as on light skin (ours)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from data_pipeline.faces.regions import region_maps
from data_pipeline.fftg.calibration import TYPES, PlantResult, Portrait

#: Bands of about as many plants each.
_BANDS = 5


def skin_lightness(portrait: Portrait) -> float:
    """The mean lightness (CIE L, 0 to 100) of a face without its organs."""
    skin = region_maps(portrait.landmarks, *portrait.image.shape[:2])["face"] > 0.5
    lightness = cv2.cvtColor(portrait.image, cv2.COLOR_RGB2LAB)[..., 0]
    return float(lightness[skin].mean()) / 2.55


def recall_by_lightness(
    outcomes: Sequence[PlantResult],
) -> list[tuple[float, float, int, dict[str, float]]]:
    """The recall of each type in bands of the skin's lightness.

    Args:
      outcomes: plants of one type each.

    Returns:
      For each band from dark to light: its lowest and highest lightness, the number of plants, and the share of
      the plants of each type in whose region that type is detected; nan without a plant of the type.
    """
    lightness = np.array([skin_lightness(outcome.plant.portrait) for outcome in outcomes])
    table = []
    for band in np.array_split(np.argsort(lightness, kind="stable"), _BANDS):
        recall = {}
        for kind in TYPES:
            plants = [outcomes[i] for i in band if kind in outcomes[i].plant.types]
            hits = [kind in plant.predicted.get(plant.plant.region, ()) for plant in plants]
            recall[kind] = float(np.mean(hits)) if hits else float("nan")
        table.append(
            (float(lightness[band].min()), float(lightness[band].max()), len(band), recall)
        )
    return table
