"""Alignment, noise floor and forgery mask of a pair."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.faces.regions import region_maps
from data_pipeline.fftg.findings import annotate_pair
from data_pipeline.fftg.images import read_mask
from data_pipeline.fftg.measure import registration, tone
from data_pipeline.fftg.measure.difference_mask import PairError, compare, full_mask
from data_pipeline.fftg.measure.thresholds import DEFAULT
from data_pipeline.synthetic import forgeries
from data_pipeline.synthetic.anatomy import draw_identity
from data_pipeline.synthetic.faces import draw_face

SIZE = 192


def face(seed: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return draw_face(draw_identity(rng), rng, size)


def moved(image: np.ndarray, x: float, y: float) -> np.ndarray:
    matrix = np.array([[1, 0, x], [0, 1, y]], float)
    size = (image.shape[1], image.shape[0])
    return cv2.warpAffine(
        image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )


def forged(real: np.ndarray, fake: np.ndarray, points: np.ndarray) -> set[str]:
    findings, _ = annotate_pair(real, fake, points)
    return {name for name, finding in findings.items() if finding.forged}


@pytest.mark.parametrize("seed", range(4))
def test_an_identical_pair_has_an_empty_mask(seed: int) -> None:
    image, points = face(seed)
    assert compare(image, image.copy(), points, DEFAULT).mask.max() == 0


@pytest.mark.parametrize("quality", [50, 75, 95])
@pytest.mark.parametrize("seed", range(3))
def test_recompression_is_not_a_forgery(seed: int, quality: int) -> None:
    image, points = face(seed)
    assert forged(image, forgeries.jpeg(image, quality), points) == set()


@pytest.mark.slow
def test_recompressed_real_faces_have_no_forged_region(shared_dir: Path) -> None:
    from data_pipeline.fftg.calibration import measure_noise, portraits, reencoded

    face_detector = pytest.importorskip("data_pipeline.faces.detection").open_detector("dlib")
    faces = portraits([shared_dir / "data" / "ffpp_crops" / "FaceSwap" / "real"], face_detector)[
        ::2
    ]
    pairs = measure_noise(reencoded(faces), DEFAULT)
    assert len(pairs) >= 100
    wrong = [pair[0].name for pair in pairs if any(region.forged for region in pair)]
    assert len(wrong) <= 0.01 * len(pairs), wrong


@pytest.mark.slow
def test_a_reencoded_real_video_has_no_forged_region(shared_dir: Path) -> None:
    pytest.importorskip("dlib")
    from data_pipeline.faces.detection import open_detector
    from data_pipeline.fftg.calibration import encoded_again, measure_noise

    originals = shared_dir / "data" / "FaceForensics++" / "original_sequences" / "youtube"
    video = originals / "c40" / "videos" / "183.mp4"
    pairs = measure_noise(encoded_again(video, open_detector("dlib")), DEFAULT)
    assert len(pairs) >= 20
    assert not [pair for pair in pairs if any(region.forged for region in pair)]


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    x=st.floats(-5, 5),
    y=st.floats(-5, 5),
    gain=st.floats(0.95, 1.05),
    offset=st.floats(-5, 5),
    seed=st.integers(0, 5),
)
def test_a_small_shift_and_gain_are_estimated_and_undone(
    x: float, y: float, gain: float, offset: float, seed: int
) -> None:
    image, points = face(seed)
    other = np.clip(np.rint(moved(image, x, y) * gain + offset), 0, 255).astype(np.uint8)
    pair = compare(image, other, points, DEFAULT)
    assert pair.alignment.agreement > 0.8
    if max(abs(x), abs(y)) > 1:
        assert np.hypot(pair.alignment.shift[0] - x, pair.alignment.shift[1] - y) < 0.5
    findings, _ = annotate_pair(image, other, points)
    # The shift was made by interpolation, which softens thin lines: only this may remain.
    assert max(finding.score for finding in findings.values()) < 2 / 255


@pytest.mark.parametrize(
    ("gain", "gamma"), [(1.08, 0.9), (0.92, 1.1), (1.0, 0.9), (1.0, 1.1), (1.08, 1.1), (0.92, 0.9)]
)
def test_gain_and_gamma_are_undone_and_an_edit_remains(gain: float, gamma: float) -> None:
    image, points = face(2)
    levels = np.clip(np.rint(255 * gain * (np.arange(256) / 255) ** gamma), 0, 255)
    curve = levels.astype(np.uint8)
    assert forged(image, curve[image], points) == set()
    region = region_maps(points, SIZE, SIZE)["mouth"]
    fake = forgeries.plant(image, region, "color", 1.0, np.random.default_rng(0))
    assert forged(image, curve[fake], points) == {"mouth"}


@pytest.mark.parametrize(("gain", "gamma"), [(1.08, 0.9), (0.92, 1.1), (1.0, 0.9), (0.92, 0.9)])
def test_the_curve_of_the_surroundings_holds_for_other_gray_levels(
    gain: float, gamma: float
) -> None:
    rng = np.random.default_rng(0)
    real = np.clip(rng.normal(np.linspace(20, 200, 96)[:, None, None], 6, (96, 96, 3)), 0, 255)
    real = cv2.blur(real, (3, 3)).astype(np.uint8)
    levels = np.clip(np.rint(255 * gain * (np.arange(256) / 255) ** gamma), 0, 255)
    fake = levels.astype(np.uint8)[real]
    known = np.arange(96 * 64)  # levels up to about 140
    alike = registration.Alignment((0.0, 0.0), 1.0, 0.0, 1.0)
    before, after = tone.undo(real, fake, alike, known)
    assert np.abs(before.astype(int) - after).mean() < 1.0
    assert np.abs(real.astype(int) - fake).mean() > 3


def test_a_change_of_one_channel_is_undone() -> None:
    image, points = face(4)
    warm = image.astype(np.float32) * (1.06, 1.0, 0.94) + (0, 0, 4)
    assert forged(image, np.clip(np.rint(warm), 0, 255).astype(np.uint8), points) == set()


@pytest.mark.parametrize("seed", range(3))
def test_a_change_of_tone_below_the_noise_of_each_pixel_is_seen(seed: int) -> None:
    image, points = face(seed)
    noise = np.random.default_rng(seed).normal(0, 9, image.shape)
    noisy = np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
    assert forged(image, noisy, points) == set()
    mouth = region_maps(points, SIZE, SIZE)["mouth"]
    fake = noisy.astype(np.int16)
    fake[mouth] += 12
    assert forged(image, np.clip(fake, 0, 255).astype(np.uint8), points) == {"mouth"}


def test_a_forgery_is_detected_in_a_shifted_fake() -> None:
    image, points = face(3)
    region = region_maps(points, SIZE, SIZE)["mouth"]
    fake = forgeries.plant(image, region, "structure", 1.0, np.random.default_rng(0))
    assert forged(image, moved(fake, 3, -2), points) == {"mouth"}


def test_undo_softens_both_images_alike() -> None:
    large, _ = face(1, 2 * SIZE)
    large = cv2.GaussianBlur(large, (0, 0), 1.5)
    image, other = large[::2, ::2], large[::2, 1::2]  # half a pixel apart, neither interpolated
    alignment = registration.estimate(image, other, np.arange(0, SIZE * SIZE, 16), np.arange(0))
    assert alignment.shift == pytest.approx((-0.5, 0.0), abs=0.1)
    real, fake, move = registration.undo(image, other, alignment)
    assert move is not None
    assert abs(move[0, 2]) == pytest.approx(0.25, abs=0.05)
    inner = np.s_[8:-8, 8:-8]
    response = [
        np.abs(cv2.Laplacian(i[inner].astype(np.float32), cv2.CV_32F)).mean() for i in (real, fake)
    ]
    assert response[0] == pytest.approx(response[1], rel=0.03)


@pytest.mark.parametrize(("turn", "growth"), [(3, 1), (-3, 1), (1, 1.01), (0, 1.04), (0, 0.96)])
def test_a_small_turn_and_growth_are_undone(turn: float, growth: float) -> None:
    image, points = face(3)
    matrix = cv2.getRotationMatrix2D((95.5, 95.5), turn, growth)

    def turned(picture: np.ndarray) -> np.ndarray:
        border = cv2.BORDER_REPLICATE
        return cv2.warpAffine(
            picture, matrix, (SIZE, SIZE), flags=cv2.INTER_CUBIC, borderMode=border
        )

    pair = compare(image, turned(image), points, DEFAULT)
    assert np.degrees(pair.alignment.turn) == pytest.approx(-turn, abs=0.2)
    assert 1 + pair.alignment.growth == pytest.approx(growth, abs=0.004)
    assert forged(image, turned(image), points) == set()
    region = region_maps(points, SIZE, SIZE)["mouth"]
    fake = forgeries.plant(image, region, "color", 1.0, np.random.default_rng(0))
    assert forged(image, turned(fake), points) == {"mouth"}
    rows, columns = np.nonzero(
        full_mask(compare(image, turned(fake), points, DEFAULT), image, fake) > 10
    )
    expected = np.argwhere(turned(cv2.absdiff(fake, image)).max(axis=2) > 10).mean(axis=0)
    assert (rows.mean(), columns.mean()) == pytest.approx(tuple(expected), abs=1.0)


@pytest.mark.parametrize(("turn", "growth"), [(5, 1), (0, 1.07)])
def test_a_large_turn_or_growth_is_refused(turn: float, growth: float) -> None:
    image, points = face(3)
    matrix = cv2.getRotationMatrix2D((95.5, 95.5), turn, growth)
    other = cv2.warpAffine(image, matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
    with pytest.raises(PairError, match="misaligned: the fake is turned by"):
        compare(image, other, points, DEFAULT)


def test_a_large_shift_is_refused() -> None:
    image, points = face(2)
    with pytest.raises(PairError) as caught:
        compare(image, moved(image, 30, 10), points, DEFAULT)
    assert caught.value.code in ("misaligned", "not_a_pair")


@pytest.mark.parametrize("seed", range(4))
def test_two_people_are_not_a_pair(seed: int) -> None:
    image, points = face(seed)
    with pytest.raises(PairError, match="not_a_pair"):
        compare(image, face(seed + 50)[0], points, DEFAULT)


def test_a_center_crop_of_a_few_pixels_is_undone() -> None:
    image, points = face(4)
    assert forged(image, image[:, 4:-4], points) == set()
    with pytest.raises(PairError, match="size_mismatch: real is 192x192, fake 96x192"):
        compare(image, image[:, 48:-48], points, DEFAULT)


def test_a_tiny_face_is_refused() -> None:
    image, points = face(0)
    with pytest.raises(PairError, match="tiny_face"):
        compare(image, image, (points * 0.05 + 90).astype(np.float32), DEFAULT)


def test_the_mask_shows_the_change_and_nothing_else() -> None:
    image, points = face(5)
    region = region_maps(points, SIZE, SIZE)["nose"]
    fake = image.copy()
    fake[region] = np.clip(fake[region].astype(int) + 40, 0, 255)
    pair = compare(image, fake, points, DEFAULT)
    mask = full_mask(pair, image, fake)
    assert mask.shape == (SIZE, SIZE)
    inner = cv2.erode(region.astype(np.uint8), np.ones((7, 7))) > 0
    far = cv2.dilate(region.astype(np.uint8), np.ones((13, 13))) == 0
    assert mask[inner].min() > 10
    assert mask[far].max() == 0
    assert pair.mask.min() >= 0
    assert pair.mask.max() <= 1


@pytest.mark.parametrize("cut", [0, 4])
def test_the_mask_is_in_the_coordinates_of_the_fake(cut: int) -> None:
    image, points = face(5)
    region = region_maps(points, SIZE, SIZE)["nose"]
    fake = forgeries.plant(image, region, "color", 1.0, np.random.default_rng(0))
    # What the plant changed, and not its region: it fades in from the border.
    where = (cv2.absdiff(fake, image).max(axis=2) > 10).astype(np.uint8)
    fake, where = (moved(picture, 3, -2)[cut : SIZE - cut] for picture in (fake, where))
    mask = full_mask(compare(image, fake, points, DEFAULT), image, fake)
    assert mask.shape == fake.shape[:2]
    rows, columns = np.nonzero(mask > 10)
    expected = np.argwhere(where).mean(axis=0)
    assert (rows.mean(), columns.mean()) == pytest.approx(expected, abs=1.0)


@pytest.mark.parametrize("of_real", [True, False])
def test_a_dataset_mask_may_have_the_size_of_either_image(tmp_path: Path, of_real: bool) -> None:
    image, points = face(7)
    where = np.where(region_maps(points, SIZE, SIZE)["eyes"], 255, 0).astype(np.uint8)
    fake = image[:, 4:-4]
    cv2.imwrite(str(tmp_path / "mask.png"), where if of_real else where[:, 4:-4])
    mask = read_mask(tmp_path / "mask.png", image, fake)
    findings, _ = annotate_pair(image, fake, points, mask=mask)
    assert findings["eyes"].score > 0.95
    with pytest.raises(PairError, match="bad_mask"):
        read_mask(tmp_path / "mask.png", image[1:], image[2:])


def test_a_large_picture_is_reduced_around_the_face() -> None:
    image, points = face(6, 640)
    frame = np.full((900, 1200, 3), 90, np.uint8)
    frame[100:740, 300:940] = image
    pair = compare(frame, frame.copy(), np.add(points, (300, 100)), DEFAULT)
    assert pair.size == pytest.approx(DEFAULT.max_face_size, rel=0.01)
    assert max(pair.real.shape) < 640
    assert full_mask(pair, frame, frame).shape == (900, 1200)


def test_a_dataset_mask_replaces_the_difference() -> None:
    image, points = face(7)
    dataset_mask = np.where(region_maps(points, SIZE, SIZE)["eyes"], 255, 0).astype(np.uint8)
    findings, pair = annotate_pair(image, image.copy(), points, mask=dataset_mask)
    assert {name for name, finding in findings.items() if finding.forged} == {"eyes"}
    assert findings["eyes"].score > 0.95
    assert set(np.unique(pair.mask)) == {0.0, 1.0}


def test_noise_over_the_whole_picture_raises_the_floor_and_not_the_regions() -> None:
    image, points = face(8)
    noise = np.random.default_rng(0).normal(0, 4, image.shape)
    noisy = np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
    assert forged(image, noisy, points) == set()
    assert compare(image, noisy, points, DEFAULT).noise[0] > 2
