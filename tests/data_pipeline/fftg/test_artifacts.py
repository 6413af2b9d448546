"""The five forgery types: each score responds to its own cause."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.faces.regions import region_maps
from data_pipeline.fftg import calibration
from data_pipeline.fftg.findings import annotate_pair
from data_pipeline.fftg.measure import artifacts
from data_pipeline.fftg.measure.difference_mask import compare
from data_pipeline.fftg.measure.thresholds import DEFAULT
from data_pipeline.fftg.measure.type_thresholds import beside_others, type_thresholds
from data_pipeline.synthetic import forgeries
from data_pipeline.synthetic.anatomy import draw_identity
from data_pipeline.synthetic.faces import draw_face
from jax_vlffd.vocabulary import REGIONS, TYPES

SIZE = 224


def _portraits(count: int) -> list[calibration.Portrait]:
    rng = np.random.default_rng(7)
    return [calibration.Portrait(*draw_face(draw_identity(rng), rng, SIZE)) for _ in range(count)]


def _scores(
    real: np.ndarray, fake: np.ndarray, points: np.ndarray, region: str
) -> dict[str, float]:
    pair = compare(real, fake, points, DEFAULT)
    index = REGIONS.index(region)
    return artifacts.scores(artifacts.planes(pair, [index]), index, DEFAULT.boundary)


@pytest.mark.parametrize("kind", TYPES)
def test_each_type_responds_to_its_own_cause(kind: str) -> None:
    detected = []
    for number, portrait in enumerate(_portraits(12)):
        maps = region_maps(portrait.landmarks, SIZE, SIZE)
        region = REGIONS[number % 3]
        fake = forgeries.plant(
            portrait.image, maps[region], kind, 0.8, np.random.default_rng(number)
        )
        findings, _ = annotate_pair(portrait.image, fake, portrait.landmarks)
        detected.append(findings[region].types)
    hits = sum(kind in types for types in detected)
    exact = sum(types == (kind,) for types in detected)
    assert hits >= 11, detected
    assert exact >= 9, detected


def test_an_unchanged_image_scores_zero() -> None:
    image, points = _portraits(1)[0].image, _portraits(1)[0].landmarks
    for region in REGIONS:
        scores = _scores(image, image.copy(), points, region)
        assert list(scores) == list(TYPES)
        assert all(value <= 1e-3 for value in scores.values())


@pytest.mark.parametrize("kind", ["color", "blur", "texture", "boundary"])
def test_scores_grow_with_strength(kind: str) -> None:
    portrait = _portraits(1)[0]
    region = region_maps(portrait.landmarks, SIZE, SIZE)["mouth"]
    scores = []
    for strength in (0.0, 0.5, 1.0):
        rng = np.random.default_rng(0)
        fake = forgeries.plant(portrait.image, region, kind, strength, rng)
        scores.append(_scores(portrait.image, fake, portrait.landmarks, "mouth")[kind])
    assert scores[0] < scores[1]
    assert scores[0] < scores[2]


def test_two_types_in_one_region_are_both_detected() -> None:
    hits = 0
    for number, portrait in enumerate(_portraits(8)):
        region = region_maps(portrait.landmarks, SIZE, SIZE)["mouth"]
        rng = np.random.default_rng(number)
        fake = forgeries.plant(portrait.image, region, "blur", 0.8, rng)
        fake = forgeries.plant(fake, region, "color", 0.8, rng)
        findings, _ = annotate_pair(portrait.image, fake, portrait.landmarks)
        hits += {"blur", "color"} <= set(findings["mouth"].types)
    assert hits >= 7


def _contrast(levels: np.ndarray, where: np.ndarray) -> float:
    return artifacts._glcm_contrast(levels, artifacts._neighbors(where))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), levels=st.integers(2, 32))
def test_glcm_contrast_equals_scikit_images(seed: int, levels: int) -> None:
    feature = pytest.importorskip("skimage.feature")
    image = np.random.default_rng(seed).integers(0, levels, (20, 30)).astype(np.uint8)
    matrix = feature.graycomatrix(image, [1], [0, np.pi / 2], levels=levels).sum(axis=3)
    weights = (np.arange(levels)[:, None] - np.arange(levels)) ** 2
    expected = (matrix[:, :, 0] * weights).sum() / matrix.sum()
    contrast = _contrast(image.astype(np.float32), np.ones(image.shape, bool))
    assert contrast == pytest.approx(expected, rel=1e-5)


def test_glcm_contrast_counts_pairs_inside_only() -> None:
    image = np.zeros((10, 10), np.float32)
    image[:, 5:] = 9
    where = np.zeros((10, 10), bool)
    where[:, :5] = True
    assert _contrast(image, where) == 0
    where[:, 5] = True
    assert _contrast(image, where) > 0
    assert _contrast(image, np.zeros((10, 10), bool)) == 0


@pytest.mark.parametrize("size", [64, 96])
def test_small_faces_and_cut_regions_have_finite_scores(size: int) -> None:
    rng = np.random.default_rng(0)
    image, points = draw_face(draw_identity(rng), rng, size)
    points = np.add(points, (0.45 * size, 0))  # half of the face lies outside
    fake = np.clip(image.astype(int) + rng.integers(-60, 60, image.shape), 0, 255).astype(np.uint8)
    fake[:, : size // 3] = image[:, : size // 3]
    findings, _ = annotate_pair(image, fake, points.astype(np.float32))
    for finding in findings.values():
        assert all(np.isfinite(figure["score"]) for figure in finding.evidence.values())


@pytest.mark.slow
def test_planted_types_are_distinguished_on_held_out_real_faces(shared_dir: Path) -> None:
    pytest.importorskip("dlib")
    from data_pipeline.faces.detection import open_detector

    folder = shared_dir / "data" / "edited_faces" / "real"
    faces = calibration.portraits([folder], open_detector("dlib"))
    outcomes = calibration.annotate_plants(list(calibration.plant_all(faces, 300, 99)), DEFAULT)
    figures = calibration.figures(outcomes)
    assert figures["macro"]["f1"] > 0.89, figures
    table = calibration.confusion(outcomes)
    assert table["blur"]["texture"] + table["blur"]["structure"] < 0.05
    assert max(table["color"][kind] for kind in TYPES if kind != "color") < 0.12


def test_fitted_thresholds_separate_the_planted_types() -> None:
    plants = list(calibration.plant_all(_portraits(6), 60, 3))
    fitted = calibration.fit_types(plants, DEFAULT)
    figures = calibration.figures(calibration.annotate_plants(plants, fitted))
    assert figures["macro"]["f1"] > 0.85
    assert all(fitted.threshold(kind) > 0 for kind in TYPES)


def test_a_seam_along_a_part_of_the_edge_is_a_boundary() -> None:
    """A seam on less than half of the edge is one, and a change of tone without a seam is not."""
    detected, clean = 0, 0
    for number, portrait in enumerate(_portraits(8)):
        region = region_maps(portrait.landmarks, SIZE, SIZE)["mouth"]
        rng = np.random.default_rng(number)
        toned = forgeries.plant(portrait.image, region, "color", 0.3, rng)
        seam = forgeries.plant(toned, region, "boundary", 0.9, rng)
        columns = np.flatnonzero(region.any(axis=0))
        part = toned.copy()  # the seam stays on the left 45% of the mouth
        left = columns[0] + round(0.45 * len(columns))
        part[:, :left] = seam[:, :left]
        for fake, seams in ((part, True), (toned, False)):
            findings, _ = annotate_pair(portrait.image, fake, portrait.landmarks)
            is_boundary = "boundary" in findings["mouth"].types
            detected += is_boundary and seams
            clean += not is_boundary and not seams
    assert detected >= 6
    assert clean >= 7


@given(scores=st.lists(st.floats(0, 50), min_size=5, max_size=5), region=st.sampled_from(REGIONS))
def test_the_strongest_type_is_judged_by_itself_and_others_beside_it(
    scores: list[float], region: str
) -> None:
    by_type = dict(zip(TYPES, scores, strict=True))
    alone = type_thresholds(region, DEFAULT)
    beside = beside_others(by_type, alone)
    ratios = {kind: by_type[kind] / alone[kind] for kind in TYPES}
    strongest = max(TYPES, key=lambda kind: ratios[kind])
    assert all(beside[kind] >= alone[kind] for kind in TYPES)
    assert (by_type[strongest] > beside[strongest]) == (ratios[strongest] > 1)
    kept = [kind for kind in TYPES if by_type[kind] > beside[kind]]
    assert all(ratios[kind] > 1 and ratios[kind] > 0.2 * max(ratios.values()) for kind in kept)
