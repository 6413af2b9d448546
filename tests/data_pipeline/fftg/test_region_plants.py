"""Edits of known regions, and the regions that the annotator finds forged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.fftg.calibration import Portrait
from data_pipeline.fftg.measure.thresholds import DEFAULT
from data_pipeline.fftg.region_plants import answers, plant_regions, region_figures
from data_pipeline.synthetic.anatomy import draw_identity
from data_pipeline.synthetic.faces import draw_face


def drawn(count: int) -> list[Portrait]:
    rng = np.random.default_rng(0)
    return [Portrait(*draw_face(draw_identity(rng), rng, 160)) for _ in range(count)]


def test_planted_edits_are_visible_and_repeatable() -> None:
    faces = drawn(4)
    first, again = (list(plant_regions(faces, 12, 1)) for _ in range(2))
    assert len(first) == 12
    for one, other in zip(first, again, strict=True):
        assert one.regions == other.regions
        assert one.regions
        np.testing.assert_array_equal(one.fake, other.fake)
        assert np.abs(one.fake.astype(int) - one.real).max() > 6


def test_most_planted_regions_of_drawn_faces_are_right() -> None:
    results = answers(plant_regions(drawn(4), 24, 1), DEFAULT)
    figures = region_figures(results)
    assert figures["f1"] > 0.8
    assert region_figures([]) == {"f1": 1.0, "all_right": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize("count", [48, pytest.param(480, marks=pytest.mark.campaign)])
def test_planted_regions_of_real_faces_are_right(count: int, shared_dir: Path) -> None:
    pytest.importorskip("dlib")
    from data_pipeline.faces.detection import open_detector
    from data_pipeline.fftg.calibration import portraits

    faces = portraits([shared_dir / "data" / "edited_faces" / "real"], open_detector("dlib"))
    figures = region_figures(answers(plant_regions(faces, count, 1), DEFAULT))
    assert figures["f1"] > 0.93
    assert figures["all_right"] > 0.85
    unedited = answers(plant_regions(faces, count // 2, 2, edited=False), DEFAULT)
    assert sum(answer.predicted != frozenset() for answer in unedited) <= 0.1 * len(unedited)
