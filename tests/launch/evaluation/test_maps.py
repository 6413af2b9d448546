"""Heat maps against forgery masks: the figures by counting pairs of patches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.core.images import decode_image
from data_pipeline.packed.builder import pack
from data_pipeline.packed.reader import PackedSplit
from jax_vlffd.inference.detector import Detector
from launch.evaluation.heatmaps import score_maps
from tests.support.packed_sets import encode, write_annotations


@pytest.fixture(scope="module")
def half_forged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed set whose fakes are forged in their left half."""
    folder = tmp_path_factory.mktemp("half")
    file = write_annotations(folder, 6, ("Deepfakes",), masks=True, split="test")
    mask = np.zeros((40, 40, 3), np.uint8)
    mask[:, :20] = 255
    for path in folder.glob("*_mask.png"):
        path.write_bytes(encode(mask))
    pack([file], folder / "packed")
    return folder / "packed"


def by_pairs(maps: list[np.ndarray]) -> float:
    """The share of pairs of a left and a right patch in which the left is hotter; ties count half."""
    shares = []
    for heat_map in maps:
        left, right = heat_map[:, :1].reshape(-1, 1), heat_map[:, 1:].reshape(1, -1)
        shares.append(np.mean((left > right) + 0.5 * (left == right)))
    return float(np.mean(shares))


def test_maps_are_scored_by_their_patches(half_forged: Path, workdir: Path) -> None:
    scored = score_maps(workdir, half_forged, "test")
    assert scored is not None
    split = PackedSplit(half_forged, "test")
    fakes = [split[row] for row in range(len(split)) if split[row].label]
    predictions = Detector.from_pretrained(workdir).predict([decode_image(f.image) for f in fakes])
    maps = [prediction.classifier_map for prediction in predictions]
    assert scored["fakes"] == 6
    assert scored["classifier"] == pytest.approx(by_pairs(maps))
    assert scored["classifier_of_another"] == pytest.approx(by_pairs(maps))  # all are forged alike
    assert scored["center"] == 0.5
    named = [
        [
            heat_map
            for reason, heat_map in zip(a.reasons, a.reason_maps, strict=True)
            if reason.region
        ]
        for a in predictions
    ]
    with_reasons = [np.mean(heat_map, axis=0) for heat_map in named if heat_map]
    assert scored["fakes_with_reasons"] == len(with_reasons)
    assert scored["reasons"] == (pytest.approx(by_pairs(with_reasons)) if with_reasons else None)


def test_a_set_without_masks_has_no_figures(packed: Path, workdir: Path) -> None:
    assert score_maps(workdir, packed, "train") is None
