"""Decoding against PIL, bounds on hostile bytes, and the properties of every augmentation."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from data_pipeline.core.images import InputError, decode_image, image_size
from data_pipeline.loading.augment import FILL, degrade, draw_geometry, recompress
from data_pipeline.loading.settings import AugmentSettings
from jax_vlffd.preprocessing import CENTER, Geometry, square_view
from tests.support.packed_sets import draw, encode

_NONE = AugmentSettings.none()


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


_PICTURE = Image.fromarray(draw(1, 64)[:50])
_SOUND = {
    "png": _saved(_PICTURE, "PNG"),
    "png gray": _saved(_PICTURE.convert("L"), "PNG"),
    "png gray and alpha": _saved(_PICTURE.convert("LA"), "PNG"),
    "png alpha": _saved(_PICTURE.convert("RGBA"), "PNG"),
    "png palette": _saved(_PICTURE.convert("P"), "PNG"),
    "png 1 bit": _saved(_PICTURE.convert("1"), "PNG"),
    "jpeg": _saved(_PICTURE, "JPEG"),
    "jpeg progressive": _saved(_PICTURE, "JPEG", progressive=True),
    "jpeg gray": _saved(_PICTURE.convert("L"), "JPEG"),
    "jpeg cmyk": _saved(_PICTURE.convert("CMYK"), "JPEG"),
    "jpeg turned": _saved(_PICTURE, "JPEG", exif=_exif(6)),
    "jpeg mirrored": _saved(_PICTURE, "JPEG", exif=_exif(2)),
    "webp": _saved(_PICTURE, "WEBP"),
    "webp lossless": _saved(_PICTURE, "WEBP", lossless=True),
    "webp alpha": _saved(_PICTURE.convert("RGBA"), "WEBP"),
    "bmp": _saved(_PICTURE, "BMP"),
}


@pytest.mark.parametrize("name", _SOUND)
def test_decodes_as_pil_does(name: str) -> None:
    stored = Image.open(io.BytesIO(_SOUND[name]))
    assert image_size(_SOUND[name]) == stored.size
    image = decode_image(_SOUND[name])
    expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    assert image.dtype == np.uint8
    assert image.shape == expected.shape
    # CMYK rounds once more; another libjpeg may differ by a level or two.
    assert np.abs(image.astype(int) - expected).max() <= 2


def test_sixteen_bits_become_eight() -> None:
    picture = np.asarray(_PICTURE)
    data = cv2.imencode(".png", picture[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    np.testing.assert_array_equal(decode_image(data), picture)


def test_pixels_are_bounded_before_decoding() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        body = kind + body
        return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(InputError, match="50000x50000 pixels are more than"):
        decode_image(bomb)
    with pytest.raises(InputError, match="more than the 100 allowed"):
        decode_image(_SOUND["jpeg"], max_pixels=100)


@pytest.mark.parametrize("name", _SOUND)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.6, 0.95])
def test_cut_images_are_refused(name: str, share: float) -> None:
    data = _SOUND[name]
    with pytest.raises(InputError):
        decode_image(data[: int(len(data) * share)])


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"text", b"\xff\xd8", b"BM", b"RIFF1234WEBPVP8?"])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        decode_image(data)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(_SOUND)), st.lists(st.tuples(st.integers(0), st.integers(0, 255))))
def test_damaged_bytes_decode_or_are_refused(name: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(_SOUND[name])
    for place, value in changes:
        data[place % len(data)] = value
    try:
        image = decode_image(bytes(data), max_pixels=1 << 16)
    except InputError:
        return
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.shape[0] * image.shape[1] <= 1 << 16


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 90), st.integers(1, 90), st.integers(1, 64), st.floats(0.05, 1),
    st.floats(0, 1), st.floats(0, 1), st.booleans(),
)  # fmt: skip
def test_view_has_the_size_asked_for(
    height: int, width: int, size: int, side: float, left: float, top: float, flip: bool
) -> None:
    image = np.full((height, width, 3), 77, np.uint8)
    view = square_view(image, size, Geometry(side, left, top, flip))
    assert view.shape == (size, size, 3)
    assert view.dtype == np.uint8
    assert view.flags.c_contiguous
    assert (view == 77).all()


def test_center_of_a_wide_image_is_seen() -> None:
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = draw(3, 10)
    np.testing.assert_array_equal(square_view(image, 10), draw(3, 10))
    flipped = square_view(image, 10, Geometry(flip=True))
    np.testing.assert_array_equal(flipped, draw(3, 10)[:, ::-1])


def photograph(side: int, seed: int) -> np.ndarray:
    """A picture with less contrast in its finer scales, as photographs have: uint8 [side, side, 3]."""
    rng = np.random.default_rng(seed)
    layers = [
        0.75**n * cv2.resize(rng.normal(size=(2**n, 2**n, 3)).astype(np.float32), (side, side))
        for n in range(10)
        if 2**n <= side
    ]
    picture = 128 + 50 * np.sum(layers, axis=0)
    return picture.clip(0, 255).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(st.integers(96, 336), st.floats(0.6, 8), st.integers(0, 3))
def test_the_view_is_within_a_gray_level_and_a_half_of_pil_at_every_ratio(
    size: int, ratio: float, seed: int
) -> None:
    image = photograph(min(max(round(size * ratio), 1), 480), seed)
    expected = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
    assert np.abs(square_view(image, size).astype(float) - expected).mean() < 1.5


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 64), st.integers(8, 300), st.booleans())
def test_every_row_and_column_is_seen(size: int, side: int, column: bool) -> None:
    """The last one counts too, and a picture that is mirrored gives the mirrored view."""
    image = np.zeros((side, side, 3), np.uint8)
    image[-1] = 255
    image = np.ascontiguousarray(image.swapaxes(0, 1)) if column else image
    view = square_view(image, size)
    assert view.max() > 0
    mirrored = square_view(np.ascontiguousarray(image[::-1, ::-1]), size)[::-1, ::-1]
    np.testing.assert_allclose(view.astype(int), mirrored, atol=2)


def test_older_models_are_shown_what_they_were_trained_on() -> None:
    """Their view ends with the last multiple of its size: 299 rows are 2 x 149 rows, resized to 112."""
    image = photograph(299, 0)
    view = square_view(image, 112, resize="truncated")
    cut = cv2.resize(image[:298, :298], (149, 149), interpolation=cv2.INTER_AREA)
    cut = cv2.GaussianBlur(cut, (3, 3), 0.5 * np.sqrt((149 / 112) ** 2 - 1))
    expected = cv2.resize(cut, (112, 112), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(view, expected)
    for side in (112, 150, 223, 224, 336):  # multiples and small factors are as before
        same = [
            square_view(photograph(side, 1), 112, resize=r) for r in ("truncated", "antialiased")
        ]
        np.testing.assert_array_equal(*same)


@pytest.mark.parametrize("side", [225, 256, 299, 448, 600, 900])
def test_resizing_is_antialiased_like_pil(side: int) -> None:
    """Noise is the worst case: sampling it without a filter is 2 to 6 times as far from PIL."""
    image = np.random.default_rng(0).normal(128, 30, (side, side, 3)).clip(0, 255).astype(np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC))
    ours = square_view(image, 224).astype(float)
    plain = cv2.resize(image, (224, 224), interpolation=cv2.INTER_CUBIC).astype(float)
    assert np.std(ours - expected) < 6.0
    assert np.std(ours - expected) < np.std(plain - expected) * (0.5 if side >= 299 else 1.01)


@pytest.mark.parametrize("side", [225, 250, 256, 257, 258, 299])
def test_the_smoothing_is_left_out_only_where_it_changes_nothing(side: int) -> None:
    """A crop of 256 pixels, as they are stored by default, is seen at 224 without it."""
    checks = (np.indices((side, side, 3)).sum(0) % 2 * 255).astype(np.uint8)
    sigma = 0.5 * np.sqrt((side / 224) ** 2 - 1)
    smooth = cv2.GaussianBlur(checks, (3, 3), sigma)
    expected = cv2.resize(smooth, (224, 224), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(square_view(checks, 224), expected)
    assert (smooth != checks).any() == (side >= 258)


def test_no_augmentation_is_the_identity() -> None:
    rng = np.random.default_rng(0)
    image = draw(5)
    assert draw_geometry(_NONE, rng) == CENTER
    assert degrade(image, _NONE, rng) is image


_ONE_AT_A_TIME = {
    "color": AugmentSettings(**{**vars(_NONE), "color": 1.0}),
    "blur": AugmentSettings(**{**vars(_NONE), "blur": 1.0, "blur_sigma": (0.5, 1.5)}),
    "noise": AugmentSettings(**{**vars(_NONE), "noise": 1.0}),
    "jpeg": AugmentSettings(**{**vars(_NONE), "jpeg": 1.0}),
    "cutout": AugmentSettings(**{**vars(_NONE), "cutout": 1.0}),
}


@pytest.mark.parametrize("name", _ONE_AT_A_TIME)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.integers(8, 70))
def test_each_augmentation_changes_and_repeats(name: str, seed: int, size: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    before = image.copy()
    results = [degrade(image, _ONE_AT_A_TIME[name], np.random.default_rng(seed)) for _ in range(2)]
    np.testing.assert_array_equal(*results)
    np.testing.assert_array_equal(image, before)
    assert results[0].shape == image.shape
    assert results[0].dtype == np.uint8
    assert not np.array_equal(results[0], image)


def test_noise_has_the_strength_asked_for() -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    settings_ = AugmentSettings(**{**vars(_NONE), "noise": 1.0, "noise_std": (5.0, 5.0)})
    noisy = degrade(image, settings_, np.random.default_rng(0)).astype(float)
    assert abs(noisy.std() - 5) < 0.3
    assert abs(noisy.mean() - 128) < 0.3


def test_cutout_covers_the_share_asked_for() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    settings_ = AugmentSettings(**{**vars(_NONE), "cutout": 1.0, "cutout_side": (0.5, 0.5)})
    covered = (degrade(image, settings_, np.random.default_rng(0)) == FILL).all(-1)
    assert covered.sum() == 20 * 20


def test_blur_and_jpeg_lose_detail_in_order() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    errors = [np.std(recompress(image, q).astype(float) - image) for q in (95, 60, 20)]
    assert errors == sorted(errors)
    stds = [
        degrade(
            image,
            AugmentSettings(**{**vars(_NONE), "blur": 1.0, "blur_sigma": (sigma, sigma)}),
            np.random.default_rng(0),
        ).std()
        for sigma in (0.3, 1.0, 3.0)
    ]
    assert stds == sorted(stds, reverse=True)


def test_color_keeps_to_its_strength() -> None:
    settings_ = AugmentSettings(**{**vars(_NONE), "color": 1.0, "color_strength": 0.1})
    gray = np.full((8, 8, 3), 100, np.uint8)
    means = [degrade(gray, settings_, np.random.default_rng(s)).mean() for s in range(50)]
    assert min(means) >= 89
    assert max(means) <= 111
    assert max(means) - min(means) > 10


def test_geometry_stays_in_its_range() -> None:
    settings_ = AugmentSettings(flip=0.5, resize_crop=1.0, resize_crop_side=(0.6, 0.9))
    rng = np.random.default_rng(0)
    drawn = [draw_geometry(settings_, rng) for _ in range(300)]
    assert all(0.6 <= g.side <= 0.9 for g in drawn)
    assert 100 < sum(g.flip for g in drawn) < 200


def test_encoded_faces_of_the_other_tests_decode() -> None:
    np.testing.assert_array_equal(decode_image(encode(draw(0))), draw(0))
