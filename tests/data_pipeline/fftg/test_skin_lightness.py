"""Recall by the lightness of the skin."""

from __future__ import annotations

import numpy as np
import pytest

from data_pipeline.fftg.calibration import Plant, PlantResult, Portrait
from data_pipeline.fftg.skin_lightness import recall_by_lightness, skin_lightness
from data_pipeline.synthetic.anatomy import draw_identity
from data_pipeline.synthetic.faces import draw_face


def test_a_type_that_is_missed_on_dark_skin_alone_shows_in_the_dark_bands() -> None:
    rng = np.random.default_rng(0)
    image, points = draw_face(draw_identity(rng), rng, 128)
    outcomes = []
    for step in range(10):
        shade = (image * (0.4 + 0.06 * step)).astype(np.uint8)
        for kind in ("blur", "color"):
            plant = Plant(Portrait(shade, points), shade, "mouth", (kind,))
            detected = kind == "color" or step >= 4
            outcomes.append(PlantResult(plant, {"mouth": (kind,)} if detected else {}, {}))
    table = recall_by_lightness(outcomes[::-1])
    assert [count for _, _, count, _ in table] == [4] * 5
    assert [recall["blur"] for *_, recall in table] == [0, 0, 1, 1, 1]
    assert {recall["color"] for *_, recall in table} == {1}
    assert all(np.isnan(recall["boundary"]) for *_, recall in table)
    ends = [end for low, high, *_ in table for end in (low, high)]
    assert ends == sorted(ends)
    assert ends[0] == pytest.approx(skin_lightness(outcomes[0].plant.portrait))
