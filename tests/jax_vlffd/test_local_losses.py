"""What is learned from forgery masks: the patches of a view, their losses, and sets without masks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.core.images import decode_image
from data_pipeline.loading.examples import FORGED_FROM, forged_patches
from data_pipeline.loading.loader import TrainLoader
from data_pipeline.loading.settings import AugmentSettings
from data_pipeline.loading.tokenizer import Tokenizer
from data_pipeline.packed.reader import PackedSplit
from jax_vlffd.config import LossConfig
from jax_vlffd.errors import UserError
from jax_vlffd.losses import patch_loss, pool_forged
from jax_vlffd.preprocessing import Geometry, square_view
from tests.support.loading import LENGTH, data_settings, make_loader
from tests.support.packed_sets import FORGED, draw, encode, make_set

SIDE, GRID = 40, 5  # patches of 8 pixels: the forged rectangle covers three of them whole


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("masked"), 6, masks=True)


def test_a_batch_tells_how_much_of_each_patch_is_forged(masked: Path, tokenizer: Tokenizer) -> None:
    settings = data_settings(masked, paired=True, augment=AugmentSettings.none())
    loader = TrainLoader(
        settings, image_size=SIDE, tokenizer=tokenizer, text_length=LENGTH, mask_grid=GRID
    )
    batch = next(iter(loader))
    covered = np.zeros((GRID, GRID), np.float32)
    covered[3, 1:4] = 1
    assert batch["forged_patches"].dtype == np.float32
    for label, forged in zip(batch["label"], batch["forged_patches"], strict=True):
        np.testing.assert_array_equal(forged.reshape(GRID, GRID), covered * label)
    assert "forged_patches" not in next(iter(make_loader(tokenizer, data_settings(masked))))


@settings(deadline=None, max_examples=30)
@given(
    side=st.floats(0.6, 1), left=st.floats(0, 1), top=st.floats(0, 1), flip=st.booleans(),
    x=st.integers(0, 30), y=st.integers(0, 30),
)  # fmt: skip
def test_the_patches_move_with_the_view(
    masked_record: object, side: float, left: float, top: float, flip: bool, x: int, y: int
) -> None:
    """Where the image is dark, the mask is on: the two stay one whatever square is seen."""
    image = np.zeros((60, 60, 3), np.uint8)
    image[y : y + 24, x : x + 24] = 255
    record = dataclasses.replace(masked_record, mask=encode(image), label=1)  # type: ignore[type-var]
    geometry = Geometry(side, left, top, flip)
    seen = square_view(image, SIDE, geometry)[..., 0].astype(np.float32) / 255
    by_patch = seen.reshape(GRID, 8, GRID, 8).mean((1, 3)).reshape(-1)
    forged = forged_patches(record, image, SIDE, GRID, geometry)
    assert forged.min() >= 0
    assert forged.max() <= 1
    np.testing.assert_allclose(forged, by_patch, atol=1 / 255)


@pytest.fixture(scope="module")
def masked_record(masked: Path) -> object:
    split = PackedSplit(masked, "train")
    return next(split[i] for i in range(len(split)) if split[i].label)


def test_a_faint_difference_is_a_forgery_and_a_fainter_one_none(masked_record: object) -> None:
    image = draw(0)
    for level, share in ((FORGED_FROM, 1), (FORGED_FROM - 1, 0)):
        mask = np.full_like(image, level)
        record = dataclasses.replace(masked_record, mask=encode(mask), label=1)  # type: ignore[type-var]
        np.testing.assert_array_equal(
            forged_patches(record, image, SIDE, GRID), np.full(GRID**2, share)
        )


def test_an_unknown_mask_differs_from_an_empty_one(masked_record: object) -> None:
    image = draw(0)
    fake = dataclasses.replace(masked_record, label=1)  # type: ignore[type-var]
    assert forged_patches(fake, image, SIDE, GRID).max() == 1
    for mask in (b"", b"no image", encode(np.zeros((8, 8, 3), np.uint8))):
        unknown = forged_patches(dataclasses.replace(fake, mask=mask), image, SIDE, GRID)
        np.testing.assert_array_equal(unknown, np.full(GRID**2, -1, np.float32))
    real = dataclasses.replace(fake, label=0, mask=b"")
    np.testing.assert_array_equal(forged_patches(real, image, SIDE, GRID), np.zeros(GRID**2))


def test_a_set_without_masks_is_an_error(folder: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"has no forgery masks.*--masks=DIR.*loss\.local to 0"):
        make_loader(tokenizer, data_settings(folder), mask_grid=GRID)


def test_the_masks_in_the_set_are_those_of_the_faces(masked_record: object) -> None:
    mask = decode_image(masked_record.mask)  # type: ignore[attr-defined]
    assert mask.shape == (40, 40, 3)
    assert (mask[FORGED] == 255).all()
    assert mask.sum() == 3 * 255 * 8 * 24


def inputs(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((6, 9, 2)).astype(np.float32)
    forged = rng.random((6, 9)).astype(np.float32)
    forged[2:4] = -1
    return logits, forged


def test_patches_are_classified_where_their_mask_is_known() -> None:
    logits, forged = inputs()
    known = logits[[0, 1, 4, 5]].astype(np.float64), forged[[0, 1, 4, 5]].astype(np.float64)
    fake = 1 / (1 + np.exp(known[0][..., 0] - known[0][..., 1]))
    expected = -(known[1] * np.log(fake) + (1 - known[1]) * np.log(1 - fake)).mean()
    logits, forged = jnp.asarray(logits), jnp.asarray(forged)
    assert float(patch_loss(logits, forged)) == pytest.approx(expected, rel=1e-6)
    gradient = np.asarray(jax.grad(patch_loss)(logits, forged))
    assert not gradient[2:4].any()
    assert gradient[[0, 1, 4, 5]].all()
    assert float(patch_loss(logits, jnp.full_like(forged, -1))) == 0


def test_what_is_pooled_is_what_is_forged() -> None:
    rng = np.random.default_rng(0)
    patches = rng.standard_normal((4, 9, 5)).astype(np.float32)
    forged = np.zeros((4, 9), np.float32)
    forged[0, [2, 7]] = 1, 0.5
    forged[1] = -1
    labels = jnp.array([1, 1, 1, 0])
    pooled = np.asarray(pool_forged(jnp.asarray(patches), jnp.asarray(forged), labels))
    weighted = (patches[0, 2] + 0.5 * patches[0, 7]) / 1.5
    np.testing.assert_allclose(pooled[0], weighted, atol=1e-6)
    np.testing.assert_allclose(pooled[1:], patches[1:].mean(1), atol=1e-6)
    gradient = jax.grad(lambda p: pool_forged(p, jnp.asarray(forged), labels).sum())(
        jnp.asarray(patches)
    )
    assert np.isfinite(np.asarray(gradient)).all()


@pytest.mark.parametrize("weights", [{"local": -1.0}, {"image": 0, "alignment": 0, "local": 1.0}])
def test_weights_that_mean_nothing_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(UserError, match="loss"):
        LossConfig(**weights)
