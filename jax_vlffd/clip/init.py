"""Where an image tower starts when it has no pretrained weights: filters and positions (ours).

With white random filters a token starts as little more than the mean color of its patch, since the spectrum
of pictures falls with frequency, and a small tower needs thousands of steps to see beyond it. Forgeries lie
in the fine detail, so here detail starts nearly as loud as tone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

#: Amplitudes grow by this power of the frequency: 1 would make pictures white, and their noise loud.
_WHITENING = 0.7
#: Opponent colors, as rows over (R, G, B), and how much more than in brightness they count in.
_COLORS = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]]) / np.sqrt([[3], [2], [6]])
_COLOR_GAINS = (1.0, 2.0, 2.0)
#: Spread of the positions beside the patches' of about 1.
_POSITION_SCALE = 0.5


def patch_filters(key: jax.Array, width: int, patch: int) -> jax.Array:
    """Random filters fp32 [width, 3 * patch * patch], flattened by channel, row, column.

    White noise over the discrete cosine transform of the patch in opponent colors, amplified by frequency.
    """
    x, u = np.meshgrid(np.arange(patch), np.arange(patch))
    cosines = np.cos(np.pi * (x + 0.5) * u / patch) * np.sqrt(np.where(u == 0, 1, 2) / patch)
    gains = (0.35 + np.hypot(u, u.T)) ** _WHITENING
    noise = jax.random.normal(key, (width, 3, patch, patch)) * (3 * patch * patch) ** -0.5
    noise = noise * jnp.asarray(np.multiply.outer(_COLOR_GAINS, gains), jnp.float32)
    filters = jnp.einsum(
        "wcuv,ck,ux,vy->wkxy", noise, *(jnp.asarray(m, jnp.float32) for m in (_COLORS, cosines, cosines)),
        precision="highest",
    )  # fmt: skip
    return filters.reshape(width, -1)


def positions(width: int, grid: int) -> jax.Array:
    """Position embeddings fp32 [1 + grid * grid, width]: sines and cosines of both coordinates (as Beyer et
    al. 2022, "Better plain ViT baselines"), learned from there; none for the class token.
    """
    waves = -(-width // 4)
    frequencies = np.pi / 2 * 10 ** (-1.5 * np.arange(waves) / waves)
    y, x = (axis.reshape(-1, 1) * frequencies for axis in np.mgrid[:grid, :grid])
    patches = np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)[:, :width]
    return jnp.asarray(np.pad(_POSITION_SCALE * patches, ((1, 0), (0, 0))), jnp.float32)
