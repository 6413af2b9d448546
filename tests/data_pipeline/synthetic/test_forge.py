"""Planted forgeries: where they are, that they are there, and that a seed decides them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from data_pipeline.faces.regions import region_maps
from data_pipeline.synthetic import forgeries
from data_pipeline.synthetic.anatomy import draw_identity
from data_pipeline.synthetic.faces import draw_face
from jax_vlffd.vocabulary import TYPES

KINDS = (*TYPES, *forgeries.UNSEEN_KINDS)


def portrait(seed: int, size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return draw_face(draw_identity(rng), rng, size)


def planted(kind: str, strength: float = 1.0, seed: int = 0) -> tuple[np.ndarray, ...]:
    image, points = portrait(0)
    other, other_points = portrait(1)
    region = region_maps(points, 96, 96)["mouth"]
    donor = forgeries.align_donor(other, other_points, points) if kind == "splice" else None
    rng = np.random.default_rng(seed)
    return image, region, forgeries.plant(image, region, kind, strength, rng, donor)


@pytest.mark.parametrize("kind", KINDS)
def test_a_forgery_changes_its_region_alone_and_a_seed_decides_it(kind: str) -> None:
    image, region, forged = planted(kind)
    changed = (forged != image).any(axis=2)
    assert changed[np.asarray(region) > 0.5].mean() > 0.2
    assert not changed[np.asarray(region) <= 0.5].any()
    np.testing.assert_array_equal(forged, planted(kind)[2])


@pytest.mark.parametrize("kind", ["color", "blur", "boundary", "mosaic", "sharpen", "recompress"])
def test_more_strength_changes_more(kind: str) -> None:
    weak, strong = (
        np.abs(forged.astype(int) - image).mean()
        for image, _, forged in (planted(kind, 0.0), planted(kind, 1.0))
    )
    assert 0 < weak < strong


def test_the_vocabulary_describes_every_kind() -> None:
    for kind in KINDS:
        assert set(forgeries.types_of(kind)) <= set(TYPES)


def test_blur_takes_detail_and_texture_adds_or_removes_it() -> None:
    def detail(image: np.ndarray, region: np.ndarray) -> float:
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        return float(np.abs(cv2.Laplacian(gray, cv2.CV_32F))[np.asarray(region) > 0.5].mean())

    image, region, forged = planted("blur")
    assert detail(forged, region) < 0.6 * detail(image, region)
    image, region, forged = planted("texture")
    assert not 0.9 < detail(forged, region) / detail(image, region) < 1.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "magic"}, "unknown kind"),
        ({"kind": "splice"}, "donor"),
        ({"strength": 1.5}, "strength"),
        ({"region_map": np.ones((3, 3))}, "region map"),
        ({"image": np.zeros((8, 8), np.uint8)}, "image must be"),
    ],
)
def test_what_cannot_be_planted_is_refused(change: dict, message: str) -> None:
    values = {
        "image": np.zeros((8, 8, 3), np.uint8), "region_map": np.ones((8, 8)), "kind": "blur",
        "strength": 1.0, "rng": np.random.default_rng(0),
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        forgeries.plant(**(values | change))


def test_an_empty_region_leaves_the_picture() -> None:
    image, _ = portrait(0)
    same = forgeries.plant(image, np.zeros((96, 96)), "color", 1.0, np.random.default_rng(0))
    np.testing.assert_array_equal(same, image)
