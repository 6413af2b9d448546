"""Where an image tower starts: detail is heard beside tone, and every place is told from the others."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from data_pipeline.synthetic.anatomy import draw_identity
from data_pipeline.synthetic.faces import draw_face
from jax_vlffd.clip import towers


def patches(size: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    faces = np.stack([draw_face(draw_identity(rng), rng, 64)[0] for _ in range(8)])
    grid = 64 // size
    cut = faces.reshape(8, grid, size, grid, size, 3).transpose(0, 1, 3, 5, 2, 4)
    return cut.reshape(-1, 3 * size * size) / 127.5 - 1.0


@pytest.mark.parametrize("size", [8, 16])
def test_filters_hear_detail_that_white_ones_drown_in_tone(size: int) -> None:
    filters = np.asarray(towers.patch_filters(jax.random.key(0), 64, size))
    assert filters.shape == (64, 3 * size * size)
    assert filters.dtype == np.float32
    x = patches(size)
    tone = x.reshape(-1, 3, size * size).mean(axis=2).repeat(size * size, axis=1)
    white = np.random.default_rng(0).standard_normal(filters.shape)

    def share(weights: np.ndarray) -> float:
        """Of detail in the spread of the answers."""
        return float(((x - tone) @ weights.T).var() / (x @ weights.T).var())

    assert share(filters) > 2 * share(white)


@pytest.mark.parametrize(("width", "grid"), [(64, 8), (30, 5), (192, 14)])
def test_every_place_has_its_own_position(width: int, grid: int) -> None:
    result = np.asarray(towers.position_embeddings(width, grid))
    assert result.shape == (grid * grid + 1, width)
    assert not result[0].any()
    apart = np.linalg.norm(result[1:, None] - result[None, 1:], axis=-1)
    assert apart[~np.eye(grid * grid, dtype=bool)].min() > 0.1
